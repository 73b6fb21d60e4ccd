// A decode step: the logits of the next token of B sequences, in one pass over the weights.
//
// For one position, starting an operation of PyTorch takes longer than its arithmetic, and so does waiting for all threads
// at the end of each. Here one call computes the whole step. Every sum is the work of one thread, in an order that depends
// on its length alone: results depend neither on the number of threads nor on the sequences beside. model/decoding.py
// calls this; tests compare it with the plain model.
//
// Weights, keys and values are float32, or 8 bits of which each row has a scale. All that is computed is float32.
//
// Shapes: B sequences, S positions, H query heads, G key and value heads, D width of a head, C width of the model, M of the
// MLP, V vocabulary.

#include <new>
#include <type_traits>
#include <vector>

#include <omp.h>

#include "vectors.h"

namespace {

constexpr int64_t TOGETHER = 3;  // sequences that share a pass over a weight: more sums would not fit into the registers
constexpr int64_t AHEAD = 16;    // rows of a weight after which memory is asked for others

// What W x + bias needs: the weight (N, K), of T; what its rows are multiplied by, (N) or null; and its bias (N) or null.
struct Linear {
    const void* weight;
    const float *scales, *bias;
};

struct Norm {
    const float *weight, *bias;  // (C) each; the bias may be null
};

// Keys and values are (B, G, capacity, D), of T; their units are (B, G, capacity).
struct Block {
    Norm attention_norm, mlp_norm;
    Linear qkv, output, gate, up, down;  // without a gate the MLP is GELU
    const float *query_norm, *key_norm;  // (D) each, or null
    void *keys, *values;
    float *key_units, *value_units;  // what the rows are multiplied by, if T is int8_t
};

struct Model {
    int64_t blocks, H, G, D, C, M, V, capacity;
    float eps;
    int32_t rms, tanh;  // RMS norm instead of LayerNorm; GELU with the hyperbolic tangent
    const float *cosines, *sines;  // (positions, D) each, or null where positions are learned
    Norm norm;
    Linear head;
};

// sum + x * y, rounded once if the processor can: a compiler may decide so in one place and otherwise in another.
inline Vector plus_product(Vector sum, Vector x, Vector y) {
#if defined(__AVX512F__)
    return Vector(_mm512_fmadd_ps(__m512(x), __m512(y), __m512(sum)));
#elif defined(__FMA__)
    return Vector(_mm256_fmadd_ps(__m256(x), __m256(y), __m256(sum)));
#else
    return sum + x * y;
#endif
}

// The products of ROWS rows of a weight (N, K) with S vectors x (S, K): the lanes of each have to be added up yet.
template <int64_t ROWS, int64_t S, typename T>
inline void multiply_rows(const T* weight, int64_t K, const float* x, Square (&products)[S], int64_t first) {
    Vector sums[ROWS][S] = {};
    const auto add = [&](int64_t k, int64_t n) __attribute__((always_inline)) {  // else the sums would be in memory
        Vector own[S];
        for (int64_t s = 0; s < S; s++) own[s] = load(x + s * K + k, n);
        for (int64_t row = 0; row < ROWS; row++) {
            if (k * int64_t(sizeof(T)) % 64 == 0) __builtin_prefetch(weight + (row + AHEAD) * K + k);
            const Vector part = load(weight + row * K + k, n);
            for (int64_t s = 0; s < S; s++) sums[row][s] = plus_product(sums[row][s], part, own[s]);
        }
    };
    each_vector(K, add);
    for (int64_t row = 0; row < ROWS; row++)
        for (int64_t s = 0; s < S; s++) products[s][first + row] = same_bits<Bits>(sums[row][s]);
}

// The products of up to LANES rows of a weight with S vectors: a lane for each row.
template <int64_t S, typename T>
inline void multiply(const T* weight, int64_t rows, int64_t K, const float* x, Vector* products) {
    constexpr int64_t ROWS = S == 1 ? 8 : 4;  // enough sums at once that none has to wait for its last addition
    Square unsummed[S];
    int64_t row = 0;
    for (; row + ROWS <= rows; row += ROWS) multiply_rows<ROWS, S>(weight + row * K, K, x, unsummed, row);
    for (; row < rows; row++) multiply_rows<1, S>(weight + row * K, K, x, unsummed, row);
    for (; row < LANES; row++)
        for (int64_t s = 0; s < S; s++) unsummed[s][row] = Bits{};
    for (int64_t s = 0; s < S; s++) products[s] = sums_of(unsummed[s]);
}

// Call `finish(b, first, rows, products)` with the products of some rows of a weight (N, K), LANES at most, with x (B, K).
template <typename T, typename Finish>
void each_product(const T* weight, int64_t first, int64_t rows, int64_t K, const float* x, int64_t B, Finish finish) {
    Vector products[TOGETHER];
    for (int64_t b = 0; b < B;) {
        const int64_t count = std::min(TOGETHER, B - b);
        const T* own = weight + first * K;
        if (count == 1) multiply<1>(own, rows, K, x + b * K, products);
        else if (count == 2) multiply<2>(own, rows, K, x + b * K, products);
        else multiply<TOGETHER>(own, rows, K, x + b * K, products);
        for (int64_t s = 0; s < count; s++) finish(b + s, first, rows, products[s]);
        b += count;
    }
}

// The same for all rows and with the bias added, by all threads of the team; they wait for each other at the end.
template <typename T, typename Finish>
void linear(const Linear& layer, int64_t N, int64_t K, const float* x, int64_t B, Finish finish) {
    const T* weight = static_cast<const T*>(layer.weight);
#pragma omp for schedule(static)
    for (int64_t n = 0; n < N; n += LANES)
        each_product(weight, n, std::min(LANES, N - n), K, x, B, [&](int64_t b, int64_t n, int64_t rows, Vector y) {
            if (layer.scales) y *= load(layer.scales + n, rows);
            finish(b, n, rows, layer.bias ? y + load(layer.bias + n, rows) : y);
        });
}

// A thread's own memory.
struct Room {
    std::vector<float> normed, key, queries, scores;
};

void norm_rows(const Model& model, const Norm& norm, int64_t B, const float* x, float* out) {
    float inverse, mean;
    for (int64_t b = 0; b < B; b++)
        norm_row(x + b * model.C, norm.weight, norm.bias, model.C, model.eps, out + b * model.C, &inverse,
                 model.rms ? nullptr : &mean);
}

// The norm of a head's row, if there is one, and its rotation, if positions are rotary.
void place_head(const Model& model, const float* x, const float* weight, int64_t position, float* out) {
    const int64_t D = model.D, half = D / 2;
    float inverse;
    if (weight) norm_row(x, weight, nullptr, D, model.eps, out, &inverse, nullptr);
    else std::copy_n(x, D, out);
    if (!model.cosines) return;
    const float *cosine = model.cosines + position * D, *sine = model.sines + position * D;
    for (int64_t d = 0; d < half; d++) {  // each pair turns by an angle that stands in both halves of the table
        const float first = out[d], second = out[half + d];
        out[d] = first * cosine[d] - second * sine[d];
        out[half + d] = second * cosine[d] + first * sine[d];
    }
}

// The weighted sum of S rows' first VECTORS vectors, the last of which may be a part of one.
template <int64_t VECTORS, typename T>
inline void mix(const float* weights, const T* rows, int64_t S, int64_t D, float share, float* out, int64_t n = LANES) {
    Vector totals[VECTORS] = {};
    for (int64_t j = 0; j < S; j++)
        for (int64_t i = 0; i < VECTORS; i++)
            totals[i] = plus_product(totals[i], all(weights[j]), load(rows + j * D + i * LANES, n));
    for (int64_t i = 0; i < VECTORS; i++) store(out + i * LANES, totals[i] * share, n);
}

// Keep a row of keys or values.
void keep(const float* x, int64_t D, float* row, float*) { std::copy_n(x, D, row); }

// Keep a row in units of which its largest value has 127.
void keep(const float* x, int64_t D, int8_t* row, float* unit) {
    float largest = 0.0f;
    for (int64_t d = 0; d < D; d++) largest = std::max(largest, std::fabs(x[d]));
    *unit = std::max(largest / 127.0f, 1e-30f);
    for (int64_t d = 0; d < D; d++) row[d] = int8_t(std::nearbyint(x[d] / *unit));
}

// What the last of S positions reads: qkv (B, H + 2 G, D) to mixed (B, H, D). Its key and value are kept.
template <typename T>
void attend(const Model& model, const Block& block, int64_t B, int64_t position, const float* qkv, float* mixed,
            Room& room) {
    const int64_t H = model.H, G = model.G, D = model.D, S = position + 1, shared = H / G;
    const float scale = 1.0f / std::sqrt(float(D));
#pragma omp for collapse(2) schedule(static)
    for (int64_t b = 0; b < B; b++)
        for (int64_t g = 0; g < G; g++) {
            const float* own = qkv + b * (H + 2 * G) * D;
            const int64_t first = (b * G + g) * model.capacity;
            T *keys = static_cast<T*>(block.keys) + first * D, *values = static_cast<T*>(block.values) + first * D;
            float *key_units = block.key_units + first, *value_units = block.value_units + first;
            place_head(model, own + (H + g) * D, block.key_norm, position, room.key.data());
            keep(room.key.data(), D, keys + position * D, key_units + position);
            keep(own + (H + G + g) * D, D, values + position * D, value_units + position);
            for (int64_t h = 0; h < shared; h++) {
                float* query = room.queries.data() + h * D;
                place_head(model, own + (g * shared + h) * D, block.query_norm, position, query);
                for (int64_t d = 0; d < D; d++) query[d] *= scale;
            }
            for (int64_t j = 0; j < S; j += LANES)
                each_product(keys, j, std::min(LANES, S - j), D, room.queries.data(), shared,
                             [&](int64_t h, int64_t j, int64_t count, Vector scores) {
                                 if (std::is_same_v<T, int8_t>) scores *= load(key_units + j, count);
                                 store(room.scores.data() + h * S + j, scores, count);
                             });
            for (int64_t h = 0; h < shared; h++) {
                float* scores = room.scores.data() + h * S;
                Vector maxima = all(-INFINITY), totals{};
                each_vector(S, [&](int64_t j, int64_t n) {
                    const Vector own = load(scores + j, n, -INFINITY);
                    maxima = own > maxima ? own : maxima;
                });
                const float largest = largest_of(maxima);
                each_vector(S, [&](int64_t j, int64_t n) {
                    const Vector weight = exponential(load(scores + j, n, -INFINITY) - largest);
                    totals += weight;
                    store(scores + j, std::is_same_v<T, int8_t> ? weight * load(value_units + j, n) : weight, n);
                });
                const float share = 1.0f / sum(totals);
                float* out = mixed + (b * H + g * shared + h) * D;
                int64_t d = 0;
                for (; d + 4 * LANES <= D; d += 4 * LANES) mix<4>(scores, values + d, S, D, share, out + d);
                for (; d < D; d += LANES) mix<1>(scores, values + d, S, D, share, out + d, std::min(LANES, D - d));
            }
        }
}

// Add W x + bias to the residual stream.
template <typename T>
void add_linear(const Linear& layer, int64_t N, int64_t K, const float* x, int64_t B, float* residual) {
    linear<T>(layer, N, K, x, B, [&](int64_t b, int64_t n, int64_t rows, Vector y) {
        float* place = residual + b * N + n;
        store(place, load(place, rows) + y, rows);
    });
}

// The logits (B, V) after x (B, C), the tokens at one position with what the model has learned of it; x is overwritten.
// Weights, keys and values are of T.
template <typename T>
void compute(int64_t threads, const Model& model, const Block* blocks, int64_t B, int64_t position, float* x,
             float* logits) {
    const int64_t C = model.C, M = model.M, qkv_width = (model.H + 2 * model.G) * model.D, mixed_width = model.H * model.D;
    std::vector<float> qkv(B * qkv_width), mixed(B * mixed_width), hidden(B * M);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Room room{std::vector<float>(B * C), std::vector<float>(model.D), std::vector<float>(mixed_width / model.G),
                  std::vector<float>(model.H / model.G * (position + 1))};
        float* normed = room.normed.data();
        for (int64_t i = 0; i < model.blocks; i++) {
            const Block& block = blocks[i];
            norm_rows(model, block.attention_norm, B, x, normed);
            linear<T>(block.qkv, qkv_width, C, normed, B, [&](int64_t b, int64_t n, int64_t rows, Vector y) {
                store(qkv.data() + b * qkv_width + n, y, rows);
            });
            attend<T>(model, block, B, position, qkv.data(), mixed.data(), room);
            add_linear<T>(block.output, C, mixed_width, mixed.data(), B, x);
            norm_rows(model, block.mlp_norm, B, x, normed);
            if (block.gate.weight)
                linear<T>(block.gate, M, C, normed, B, [&](int64_t b, int64_t n, int64_t rows, Vector gate) {
                    store(hidden.data() + b * M + n, gate * sigmoid(gate), rows);
                });
            linear<T>(block.up, M, C, normed, B, [&](int64_t b, int64_t n, int64_t rows, Vector y) {
                float* place = hidden.data() + b * M + n;
                Vector slope;
                if (block.gate.weight) store(place, load(place, rows) * y, rows);
                else store(place, model.tanh ? gelu_new(y, slope) : gelu(y, slope), rows);
            });
            add_linear<T>(block.down, C, M, hidden.data(), B, x);
        }
        norm_rows(model, model.norm, B, x, normed);
        linear<T>(model.head, model.V, C, normed, B, [&](int64_t b, int64_t n, int64_t rows, Vector y) {
            store(logits + b * model.V + n, y, rows);
        });
    }
}

}  // namespace

extern "C" {

int32_t usable() { return 1; }

void decode_float32(int64_t threads, const Model* model, const Block* blocks, int64_t B, int64_t position, float* x,
                    float* logits) {
    compute<float>(threads, *model, blocks, B, position, x, logits);
}

void decode_int8(int64_t threads, const Model* model, const Block* blocks, int64_t B, int64_t position, float* x,
                 float* logits) {
    compute<int8_t>(threads, *model, blocks, B, position, x, logits);
}

}  // extern "C"
