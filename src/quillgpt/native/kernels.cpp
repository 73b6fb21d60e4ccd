// The element-wise work of a transformer block in as few passes over memory as possible, forward and backward.
//
// Matrix products are PyTorch's, but for the small ones of attention. Between two of them there is one kernel each, which
// reads and writes every value once.
// Values are computed in float32 and stored as T: bfloat16, or float32 if FLOAT32 is defined. The residual stream is
// float32. model/fused_block.py calls these functions and says what they are for; tests compare them with the plain model.
//
// Shapes: B sequences, T positions, N = B T tokens, H query heads, G key and value heads, D width of a head, C width of the
// model, M of the MLP.

#include <new>
#include <utility>
#include <vector>

#include <omp.h>

#include "vectors.h"
#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

#ifdef FLOAT32
using T = float;
#else
using T = bfloat16;
#endif

typedef uint64_t Words __attribute__((vector_size(64)));
typedef int64_t Levels __attribute__((vector_size(64)));
typedef float Factors8 __attribute__((vector_size(32)));

// The one-to-one map of 64-bit numbers of dropout.py, of one or several.
template <typename Number>
inline Number scramble(Number x) {
    x *= 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

// Which values are dropped: a function of the sequence's seed and of the value's place in the sequence.
struct Dropout {
    const int64_t* seeds;  // one for each sequence; null: nothing is dropped
    int32_t dropped;       // of 65,536 levels
    float scale;           // of the values that stay

    explicit operator bool() const { return seeds != nullptr; }

    // The first word of a row of at most 2^18 values. Each word decides over four of them.
    uint64_t word(int64_t sequence, uint64_t row) const { return scramble(uint64_t(seeds[sequence])) + (row << 16); }

    // The factors that a part (of four) of some words stands for.
    Factors8 factors(Words words, int part) const {
        const Levels levels = Levels(words << (48 - 16 * part)) >> 48;
        return __builtin_convertvector(levels >= int64_t(dropped - 32768), Factors8) * -scale;  // true is -1
    }

    // Write the factors of a row; there must be room for 31 more. The parts of a word follow each other in memory.
    void row(int64_t sequence, uint64_t row, int64_t length, float* out) const {
        const Words counting = {0, 1, 2, 3, 4, 5, 6, 7};
        Words words = word(sequence, row) + counting;
        for (int64_t i = 0; i < length; i += 32, words += 8) {
            int16_t levels[32];
            const Words scrambled = scramble(words);
            std::memcpy(levels, &scrambled, sizeof levels);
            for (int64_t j = 0; j < 32; j += LANES) {
                Shorts own;
                std::memcpy(&own, levels + j, sizeof own);
                const Integers kept = __builtin_convertvector(own, Integers) >= dropped - 32768;
                store(out + i + j, __builtin_convertvector(kept, Vector) * -scale);  // true is -1
            }
        }
    }

    // Write 32 factors of each of 32 rows, row beside row.
    void columns(int64_t sequence, uint64_t first_row, int64_t first_value, float* out) const {
        const Words counting = {0, 1, 2, 3, 4, 5, 6, 7};
        const Words first = word(sequence, first_row) + (counting << 16) + uint64_t(first_value / 4);
        for (uint64_t j = 0; j < 8; j++)
            for (uint64_t i = 0; i < 32; i += 8) {
                const Words scrambled = scramble(first + (i << 16) + j);
                for (int part = 0; part < 4; part++) {
                    const Factors8 own = factors(scrambled, part);
                    std::memcpy(out + (4 * j + part) * 32 + i, &own, sizeof own);
                }
            }
    }
};

// Memory of a thread, zero at first, aligned for vectors.
template <typename V>
struct Room {
    V* values;
    explicit Room(int64_t count) : values(static_cast<V*>(::operator new(count * sizeof(V), std::align_val_t(64)))) {
        std::memset(static_cast<void*>(values), 0, count * sizeof(V));
    }
    Room(const Room&) = delete;
    ~Room() { ::operator delete(values, std::align_val_t(64)); }
    operator V*() const { return values; }
};

// Room for the factors of a row, which are 1 where nothing is dropped.
struct Factors {
    Room<float> values;
    explicit Factors(int64_t length) : values(length + 31) { std::fill_n(values.values, length, 1.0f); }
    const float* of(const Dropout& dropout, int64_t sequence, uint64_t row, int64_t length) {
        if (dropout) dropout.row(sequence, row, length, values);
        return values;
    }
};

// Add up what each thread has summed, in the order of the threads.
void add_up(const std::vector<float>& sums, int64_t width, float* out) {
    std::fill(out, out + width, 0.0f);
    for (size_t i = 0; i < sums.size(); i++) out[i % width] += sums[i];
}

// The RMS norm of a head's row, times `scale`, rotated; returns 1 / RMS. `y` is room for a row and a vector.
inline float norm_and_rotate(int64_t D, const T* x, const float* weight, const float* cosine, const float* sine, float eps,
                             float scale, float* y, T* out) {
    const int64_t half = D / 2;
    Vector squares{};
    each_vector(D, [&](int64_t i, int64_t n) {
        const Vector own = load(x + i, n);
        squares += own * own;
    });
    const float r = 1.0f / std::sqrt(sum(squares) / float(D) + eps);
    each_vector(D, [&](int64_t i, int64_t n) { store(y + i, load(x + i, n) * (r * scale) * load(weight + i, n), n); });
    each_vector(half, [&](int64_t i, int64_t n) {
        const Vector first = load(y + i, n), second = load(y + half + i, n);
        store(out + i, first * load(cosine + i, n) - second * load(sine + i, n), n);
        store(out + half + i, second * load(cosine + half + i, n) + first * load(sine + half + i, n), n);
    });
    return r;
}

// The gradient of a head's row, given 1 / RMS and the gradient of the result; adds the gradient of the weight.
inline void norm_and_rotate_backward(int64_t D, const T* x, const float* weight, const float* cosine, const float* sine,
                                     float r, float scale, const T* gradient, float* g, float* weight_gradient,
                                     T* out) {
    const int64_t half = D / 2;
    each_vector(half, [&](int64_t i, int64_t n) {
        const Vector first = load(gradient + i, n) * scale, second = load(gradient + half + i, n) * scale;
        store(g + i, first * load(cosine + i, n) + second * load(sine + half + i, n), n);
        store(g + half + i, second * load(cosine + half + i, n) - first * load(sine + i, n), n);
    });
    Vector product{};
    each_vector(D, [&](int64_t i, int64_t n) {
        const Vector passed = load(g + i, n) * (load(x + i, n) * r);
        store(weight_gradient + i, load(weight_gradient + i, n) + passed, n);
        product += passed * load(weight + i, n);
    });
    const float share = sum(product) / float(D) * r * r;
    each_vector(D, [&](int64_t i, int64_t n) {
        store(out + i, load(g + i, n) * r * load(weight + i, n) - load(x + i, n) * share, n);
    });
}

// Matrix products of attention, in tiles: C (16, 16) of A (16, depth) and B (depth, 16), depth a multiple of 32.
//
// B is packed: 32 rows of 16 columns follow each other, PACK rows side by side, as processors' products of bfloat16 want
// them. C is float32.

constexpr int64_t TILE = 16, DEPTH = 32, PACKED = TILE * DEPTH, PACK = sizeof(float) / sizeof(T);

inline int64_t padded(int64_t length, int64_t step) { return (length + step - 1) / step * step; }

#if defined(__AMX_BF16__) && defined(__linux__) && !defined(FLOAT32)

// The tile registers of a thread, in the shape of the products, as long as this object lives.
struct Tiles {
    static bool allowed() { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0; }

    Tiles() {
        alignas(64) uint8_t configuration[64] = {1};
        for (int tile = 0; tile < 8; tile++) {
            configuration[16 + 2 * tile] = 64;  // bytes of a row
            configuration[48 + tile] = 16;      // rows
        }
        _tile_loadconfig(configuration);
    }
    ~Tiles() { _tile_release(); }
};

// C = A B, or C += A B; `steps` times 32 deep.
template <bool ADD>
void multiply(float* c, int64_t c_width, const T* a, int64_t a_width, const T* b, int64_t steps) {
    if (ADD)
        _tile_loadd(0, c, c_width * sizeof(float));
    else
        _tile_zero(0);
    for (int64_t step = 0; step < steps; step++) {
        _tile_loadd(1, a + step * DEPTH, a_width * sizeof(T));
        _tile_loadd(2, b + step * PACKED, TILE * sizeof(float));
        _tile_dpbf16ps(0, 1, 2);
    }
    _tile_stored(0, c, c_width * sizeof(float));
}

#else

struct Tiles {
    static bool allowed() { return true; }
    Tiles() {}
    ~Tiles() {}
};

// Registers: VECTORS are a row of a tile, ROWS of which are computed at once.
constexpr int64_t VECTORS = TILE / LANES, ROWS = VECTORS == 1 ? 8 : 4;

#if defined(__AVX512BF16__) && !defined(FLOAT32)
inline void add_products(Vector (&sums)[ROWS][VECTORS], const T* a, int64_t a_width, const T* b) {
    const __m512bh own = (__m512bh)_mm512_loadu_si512(b);
    for (int64_t i = 0; i < ROWS; i++) {
        int pair;
        std::memcpy(&pair, a + i * a_width, sizeof pair);
        sums[i][0] = Vector(_mm512_dpbf16_ps(__m512(sums[i][0]), (__m512bh)_mm512_set1_epi32(pair), own));
    }
}
#else
// Row `part` of the PACK rows of B that lie side by side.
inline Vector unpacked(const T* b, int64_t part) {
    Bits units;
    std::memcpy(&units, b, sizeof units);
    if (PACK == 2) units = part ? units & 0xffff0000u : units << 16;  // bfloat16 is the upper half of a float32
    return same_bits<Vector>(units);
}

// Let a value stay in a register: the compiler would read it from memory at each use.
inline void hold(Vector& x) {
#if defined(__AVX2__)
    asm("" : "+v"(x));
#endif
}

// Add the products of PACK neighbours in each row of A and PACK rows of B.
inline void add_products(Vector (&sums)[ROWS][VECTORS], const T* a, int64_t a_width, const T* b) {
    for (int64_t part = 0; part < PACK; part++) {
        Vector own[VECTORS];
        for (int64_t j = 0; j < VECTORS; j++) own[j] = unpacked(b + j * LANES * PACK, part), hold(own[j]);
        for (int64_t i = 0; i < ROWS; i++)
            for (int64_t j = 0; j < VECTORS; j++) sums[i][j] += get(a[i * a_width + part]) * own[j];
    }
}
#endif

template <bool ADD>
void multiply(float* c, int64_t c_width, const T* a, int64_t a_width, const T* b, int64_t steps) {
    for (int64_t first = 0; first < TILE; first += ROWS, a += ROWS * a_width, c += ROWS * c_width) {
        Vector sums[ROWS][VECTORS];
        for (int64_t i = 0; i < ROWS; i++)
            for (int64_t j = 0; j < VECTORS; j++) sums[i][j] = ADD ? load(c + i * c_width + j * LANES) : Vector{};
        for (int64_t k = 0; k < steps * DEPTH; k += PACK) add_products(sums, a + k, a_width, b + k * TILE);
        for (int64_t i = 0; i < ROWS; i++)
            for (int64_t j = 0; j < VECTORS; j++) store(c + i * c_width + j * LANES, sums[i][j]);
    }
}

#endif

// A vector of each of PACK rows; what is below each other becomes a unit of 32 bits.
inline Bits paired(const T* x, int64_t width) {
    const Bits unit = same_bits<Bits>(load(x));  // of bfloat16, the upper half
    return PACK == 2 ? unit >> 16 | same_bits<Bits>(load(x + (PACK - 1) * width)) : unit;
}

// x (rows, columns) as (columns, rows), both multiples of 32.
void transpose(const T* x, int64_t rows, int64_t columns, T* out) {
    Square square;
    for (int64_t row = 0; row < rows; row += LANES * PACK)
        for (int64_t column = 0; column < columns; column += LANES) {
            for (int64_t i = 0; i < LANES; i++) square[i] = paired(x + (row + i * PACK) * columns + column, columns);
            transpose(square);
            for (int64_t j = 0; j < LANES; j++) std::memcpy(out + (column + j) * rows + row, &square[j], sizeof(Bits));
        }
}

// Pack B = x, of 32 rows of x and 16 of its columns for each tile: (columns / 16, rows / 32) tiles.
void pack(const T* x, int64_t width, int64_t rows, int64_t columns, T* out) {
    for (int64_t column = 0; column < columns; column += TILE)
        for (int64_t k = 0; k < rows; k += PACK)
            for (int64_t j = 0; j < TILE; j += LANES, out += LANES * PACK) {
                const Bits unit = paired(x + k * width + column + j, width);
                std::memcpy(out, &unit, sizeof unit);
            }
}

// Pack B = transposed x: (rows / 16, columns / 32) tiles. Of a row, PACK neighbours stay together.
void pack_transposed(const T* x, int64_t rows, int64_t columns, T* out) {
    Square square;
    for (int64_t row = 0; row < rows; row += LANES)
        for (int64_t k = 0; k < columns; k += LANES * PACK) {
            for (int64_t i = 0; i < LANES; i++) std::memcpy(&square[i], x + (row + i) * columns + k, sizeof(Bits));
            transpose(square);
            T* place = out + row / TILE * TILE * columns + k * TILE + row % TILE * PACK;
            for (int64_t j = 0; j < LANES; j++) std::memcpy(place + j * TILE * PACK, &square[j], sizeof(Bits));
        }
}

// Where the heads of queries, keys and values (B, H + 2 G, T, D) begin, in a matrix of any order.
struct Strides {
    int64_t sequence, head, position;
    int64_t of(int64_t b, int64_t head_number) const { return b * sequence + head_number * head; }
};

// A matrix with zeros beside and below it, so that it has whole tiles.
struct Padded {
    int64_t rows, width;
    Room<T> room;
    const T* values;
    Padded(int64_t rows, int64_t width) : rows(rows), width(width), room(rows * width), values(room) {}

    // Take the first columns of some rows, times `scale`: in their place, if they need neither zeros nor that, or a copy.
    void take(const T* x, int64_t x_width, int64_t x_rows, int64_t columns, float scale = 1.0f) {
        if (columns == width && x_width == width && x_rows == rows && scale == 1.0f) {
            values = x;
            return;
        }
        for (int64_t i = 0; i < x_rows; i++) {
            if (scale == 1.0f)
                std::copy_n(x + i * x_width, columns, room + i * width);
            else
                each_vector(columns, [&](int64_t j, int64_t n) {
                    store(room + i * width + j, load(x + i * x_width + j, n) * scale, n);
                });
        }
    }
    operator const T*() const { return values; }
};

// C (32, 32) = A B of 32 rows and columns, `steps` times 32 deep; B is packed.
void multiply_block(float* c, const T* a, int64_t a_width, const T* b, int64_t steps) {
    const T *lower = a + TILE * a_width, *right = b + steps * PACKED;
#if defined(__AMX_BF16__) && defined(__linux__) && !defined(FLOAT32)
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t step = 0; step < steps; step++) {
        _tile_loadd(4, a + step * DEPTH, a_width * sizeof(T));
        _tile_loadd(5, lower + step * DEPTH, a_width * sizeof(T));
        _tile_loadd(6, b + step * PACKED, TILE * sizeof(float));
        _tile_loadd(7, right + step * PACKED, TILE * sizeof(float));
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, DEPTH * sizeof(float));
    _tile_stored(1, c + TILE, DEPTH * sizeof(float));
    _tile_stored(2, c + TILE * DEPTH, DEPTH * sizeof(float));
    _tile_stored(3, c + TILE * DEPTH + TILE, DEPTH * sizeof(float));
#else
    multiply<false>(c, DEPTH, a, a_width, b, steps);
    multiply<false>(c + TILE, DEPTH, a, a_width, right, steps);
    multiply<false>(c + TILE * DEPTH, DEPTH, lower, a_width, b, steps);
    multiply<false>(c + TILE * DEPTH + TILE, DEPTH, lower, a_width, right, steps);
#endif
}

// out (columns, rows) = transposed x (rows, columns), times a factor.
void transpose(const T* x, int64_t x_width, int64_t rows, int64_t columns, float factor, T* out, int64_t width) {
    for (int64_t first = 0; first < rows; first += DEPTH)
        for (int64_t j = 0; j < columns; j++)
            for (int64_t i = first; i < std::min(first + DEPTH, rows); i++)
                put(out[j * width + i], get(x[i * x_width + j]) * factor);
}

// Bring the singular values of x (rows, columns), at most 1, near 1 by Newton-Schulz iterations x <- (a + b g + c g g) x,
// where g is x times its transpose, symmetric. Rows and columns are multiples of 32.
void orthogonalize(int64_t rows, int64_t columns, int64_t rounds, float a, float b, float c, T* x) {
    Room<T> packed(rows * columns), gram(rows * rows), factor(rows * rows), packed_gram(rows * rows);
    Room<float> block(DEPTH * DEPTH);
    // Multiply by a symmetric matrix's packed form; the product is symmetric, too, so half of its blocks are computed.
    const auto symmetric = [&](const T* left, int64_t depth, const T* right, const T* beside, float share, float scale,
                               T* out) {
        for (int64_t i = 0; i < rows; i += DEPTH)
            for (int64_t j = i; j < rows; j += DEPTH) {
                multiply_block(block, left + i * depth, depth, right + j * depth, depth / DEPTH);
                for (int64_t k = 0; k < DEPTH; k++)
                    for (int64_t n = 0; n < DEPTH; n += LANES) {
                        const int64_t place = (i + k) * rows + j + n;
                        Vector value = load(block + k * DEPTH + n) * scale;
                        if (beside) value += load(beside + place) * share;
                        store(out + place, value);
                    }
                if (j > i)
                    for (int64_t k = 0; k < DEPTH; k++)
                        for (int64_t n = 0; n < DEPTH; n++) out[(j + n) * rows + i + k] = out[(i + k) * rows + j + n];
            }
    };
    for (int64_t round = 0; round < rounds; round++) {
        pack_transposed(x, rows, columns, packed);
        symmetric(x, columns, packed, nullptr, 0.0f, 1.0f, gram);
        pack_transposed(gram, rows, rows, packed_gram);
        symmetric(gram, rows, packed_gram, gram, b, c, factor);
        pack(x, columns, rows, columns, packed);
        for (int64_t j = 0; j < columns; j += DEPTH)
            for (int64_t i = 0; i < rows; i += DEPTH) {
                multiply_block(block, factor + i * rows, rows, packed + j * rows, rows / DEPTH);
                for (int64_t k = 0; k < DEPTH; k++)
                    for (int64_t n = 0; n < DEPTH; n += LANES) {
                        T* place = x + (i + k) * columns + j + n;
                        store(place, load(place) * a + load(block + k * DEPTH + n));
                    }
            }
    }
}

}  // namespace

extern "C" {

// Whether the system lets the process use what this was compiled for.
int32_t usable() { return Tiles::allowed(); }

// x (N, C) to its norm `out`, and what every row was divided by: 1 / RMS, or 1 / standard deviation where `means` says
// what was subtracted before. Without `means` it is the RMS norm, without `bias` nothing is added.
void norm(int64_t threads, int64_t N, int64_t C, const float* x, const float* weight, const float* bias, float eps,
          T* out, float* inverses, float* means) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < N; n++)
        norm_row(x + n * C, weight, bias, C, eps, out + n * C, inverses + n, means ? means + n : nullptr);
}

// sum = x + dropout(y), each (N, C); and the norm of the sum, unless `weight` is null.
void add_norm(int64_t threads, int64_t N, int64_t C, int64_t length, const float* x, const T* y, Dropout dropout,
              float* sum, const float* weight, const float* bias, float eps, T* out, float* inverses, float* means) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Factors row_factors(C);
#pragma omp for
        for (int64_t n = 0; n < N; n++) {
            const float* factors = row_factors.of(dropout, n / length, n % length, C);
            const float* own_x = x + n * C;
            const T* own_y = y + n * C;
            float* own_sum = sum + n * C;
            each_vector(C, [&](int64_t j, int64_t n) {
                store(own_sum + j, load(own_x + j, n) + load(factors + j, n) * load(own_y + j, n), n);
            });
            if (weight)
                norm_row(own_sum, weight, bias, C, eps, out + n * C, inverses + n, means ? means + n : nullptr);
        }
    }
}

// The gradient of a sum's second part: dropout(gradient) as T, each (N, C).
void add_backward(int64_t threads, int64_t N, int64_t C, int64_t length, const float* gradient, Dropout dropout,
                  T* out) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Factors row_factors(C);
#pragma omp for
        for (int64_t n = 0; n < N; n++) {
            const float* factors = row_factors.of(dropout, n / length, n % length, C);
            each_vector(C, [&](int64_t j, int64_t used) {
                store(out + n * C + j, load(factors + j, used) * load(gradient + n * C + j, used), used);
            });
        }
    }
}

// The gradient of x, (N, C): `beside` plus what the norm of x passes on of `gradient`. And what `add_backward` makes of
// it, unless `passed` is null.
void norm_backward(int64_t threads, int64_t N, int64_t C, int64_t length, const float* x, const float* weight,
                   const float* inverses, const float* means, const T* gradient, const float* beside, Dropout dropout,
                   float* out, T* passed, float* weight_gradient, float* bias_gradient) {
    std::vector<float> sums(threads * C), bias_sums(bias_gradient ? threads * C : 0);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Factors row_factors(C);
        float* own_sums = sums.data() + omp_get_thread_num() * C;
        float* own_bias_sums = bias_sums.data() + omp_get_thread_num() * C;
#pragma omp for
        for (int64_t n = 0; n < N; n++) {
            const float *own_x = x + n * C, *own_beside = beside + n * C, r = inverses[n], m = means ? means[n] : 0.0f;
            const T* own_gradient = gradient + n * C;
            float* own_out = out + n * C;
            Vector product{}, total{};
            each_vector(C, [&](int64_t j, int64_t used) {
                const Vector own = load(own_gradient + j, used), w = load(weight + j, used);
                const Vector g = own * ((load(own_x + j, used) - m) * r);
                store(own_sums + j, load(own_sums + j, used) + g, used);
                if (bias_gradient) store(own_bias_sums + j, load(own_bias_sums + j, used) + own, used);
                product += g * w;
                if (means) total += own * w;
            });
            const float share = sum(product) / float(C) * r * r, shift = sum(total) / float(C) * r;
            const float* factors = passed ? row_factors.of(dropout, n / length, n % length, C) : nullptr;
            each_vector(C, [&](int64_t j, int64_t used) {
                const Vector g = load(own_gradient + j, used) * r * load(weight + j, used);
                const Vector whole = load(own_beside + j, used) + g - (load(own_x + j, used) - m) * share - shift;
                store(own_out + j, whole, used);
                if (passed) store(passed + n * C + j, load(factors + j, used) * whole, used);
            });
        }
    }
    add_up(sums, C, weight_gradient);
    if (bias_gradient) add_up(bias_sums, C, bias_gradient);
}

// Queries, keys and values (B, H + 2 G, T, D) from their joint matrix (B, T, (H + 2 G) D): queries and keys are
// normalised head by head and rotated, and queries multiplied by `scale`. `inverses` (B, T, H + G) are 1 / RMS.
void split_heads(int64_t threads, int64_t B, int64_t length, int64_t H, int64_t G, int64_t D, const T* qkv,
                 const float* weights, const float* cosines, const float* sines, float eps, float scale, T* out,
                 float* inverses) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Room<float> row(D);
#pragma omp for collapse(2)
        for (int64_t b = 0; b < B; b++)
            for (int64_t t = 0; t < length; t++)
                for (int64_t h = 0; h < H + 2 * G; h++) {
                    const int64_t n = b * length + t;
                    const T* joint = qkv + (n * (H + 2 * G) + h) * D;
                    T* place = out + ((b * (H + 2 * G) + h) * length + t) * D;
                    if (h < H + G)
                        inverses[n * (H + G) + h] =
                            norm_and_rotate(D, joint, weights + (h < H ? 0 : D), cosines + t * D, sines + t * D, eps,
                                            h < H ? scale : 1.0f, row, place);
                    else
                        std::copy_n(joint, D, place);
                }
    }
}

// The gradients of the joint matrix and of the weights (2, D), given those of queries, keys and values.
void split_heads_backward(int64_t threads, int64_t B, int64_t length, int64_t H, int64_t G, int64_t D, const T* qkv,
                          const float* weights, const float* cosines, const float* sines, float scale,
                          const float* inverses, const T* gradients, T* out, float* weight_gradients) {
    std::vector<float> sums(threads * 2 * D);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Room<float> row(D);
        float* own_sums = sums.data() + omp_get_thread_num() * 2 * D;
#pragma omp for collapse(2)
        for (int64_t b = 0; b < B; b++)
            for (int64_t t = 0; t < length; t++)
                for (int64_t h = 0; h < H + 2 * G; h++) {
                    const int64_t n = b * length + t, joint = (n * (H + 2 * G) + h) * D, part = h < H ? 0 : D;
                    const T* gradient = gradients + ((b * (H + 2 * G) + h) * length + t) * D;
                    if (h < H + G)
                        norm_and_rotate_backward(D, qkv + joint, weights + part, cosines + t * D, sines + t * D,
                                                 inverses[n * (H + G) + h], h < H ? scale : 1.0f, gradient, row,
                                                 own_sums + part, out + joint);
                    else
                        std::copy_n(gradient, D, out + joint);
                }
    }
    add_up(sums, 2 * D, weight_gradients);
}

// Causal softmax attention of queries times `scale`, keys and values (B, H + 2 G, T, D): the mixed values (B, T, H D), and
// for every query (2, B, H, T) its largest score and the reciprocal of what the exponentials of the differences to it add
// up to.
void attention(int64_t threads, int64_t B, int64_t length, int64_t H, int64_t G, int64_t D, const T* heads,
               Strides strides, float scale, Dropout dropout, T* mixed, float* statistics) {
    const int64_t depth = padded(D, DEPTH), width = padded(D, TILE), rows = padded(length, DEPTH);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Tiles tiles;
        Padded query(rows, depth), key(rows, depth), value(rows, width);
        Room<T> keys(rows * depth), values(rows * width), weights(TILE * rows);
        Room<float> scores(TILE * rows), sums(TILE * width);
        Factors row_factors(rows);
#pragma omp for collapse(2)
        for (int64_t b = 0; b < B; b++)
            for (int64_t h = 0; h < H; h++) {
                const int64_t g = h * G / H;
                query.take(heads + strides.of(b, h), strides.position, length, D, scale);
                key.take(heads + strides.of(b, H + g), strides.position, length, D);
                value.take(heads + strides.of(b, H + G + g), strides.position, length, D);
                pack_transposed(key, rows, depth, keys);
                pack(value, width, rows, width, values);
                for (int64_t first = 0; first < length; first += TILE) {
                    const int64_t most = first + TILE, deep = padded(most, DEPTH);
                    for (int64_t j = 0; j < most; j += TILE)
                        multiply<false>(scores + j, rows, query + first * depth, depth, keys + j * depth, depth / DEPTH);
                    float shares[TILE] = {};
                    for (int64_t i = 0; i < TILE; i++) {
                        const int64_t position = first + i;
                        float* row = scores + i * rows;
                        T* place = weights + i * rows;
                        std::fill(row + position + 1, row + most, -INFINITY);  // the future, whose weights are 0
                        Vector maxima = load(row), totals{};
                        for (int64_t j = LANES; j < most; j += LANES) {
                            const Vector own = load(row + j);
                            maxima = own > maxima ? own : maxima;
                        }
                        const float largest = largest_of(maxima);
                        const float* factors =
                            row_factors.of(dropout, b, uint64_t(h) << 24 | uint64_t(position), most);
                        for (int64_t j = 0; j < most; j += LANES) {
                            const Vector weight = exponential(load(row + j) - largest);
                            totals += weight;
                            store(place + j, weight * load(factors + j));
                        }
                        std::fill(place + most, place + deep, T{});
                        const float total = sum(totals);
                        shares[i] = 1.0f / total;
                        if (position < length) {
                            float* place = statistics + (b * H + h) * length + position;
                            place[0] = largest;
                            place[B * H * length] = shares[i];
                        }
                    }
                    for (int64_t d = 0; d < width; d += TILE)
                        multiply<false>(sums + d, width, weights, rows, values + d * rows, deep / DEPTH);
                    for (int64_t i = 0; i < std::min(TILE, length - first); i++) {
                        T* place = mixed + ((b * length + first + i) * H + h) * D;
                        each_vector(D, [&](int64_t d, int64_t n) {
                            store(place + d, load(sums + i * width + d, n) * shares[i], n);
                        });
                    }
                }
            }
    }
}

// The gradient of queries, keys and values, in the order of these, given results of `attention` and the gradient of the
// mixed values. It computes the weights again, 32 keys and 32 queries at a time, as a matrix whose rows are keys.
void attention_backward(int64_t threads, int64_t B, int64_t length, int64_t H, int64_t G, int64_t D, const T* heads,
                        Strides strides, float scale, Dropout dropout, const T* mixed, const float* statistics,
                        const T* gradient, T* out) {
    const int64_t depth = padded(D, DEPTH), width = padded(D, TILE), rows = padded(length, DEPTH);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Tiles tiles;
        Padded query(rows, depth), key(rows, depth), value(rows, depth), grad(rows, depth);
        Room<T> queries(rows * depth), grads(rows * depth);                  // B of products over the width of a head
        Room<T> queries_in_rows(rows * width), grads_in_rows(rows * width);  // B of products over queries
        Room<T> key_columns(depth * rows), weights(DEPTH * rows), score_grads(DEPTH * rows), packed(DEPTH * DEPTH);
        Room<float> scores(DEPTH * DEPTH), weight_grads(DEPTH * DEPTH), factors(DEPTH * DEPTH);
        Room<float> query_grads(width * rows), key_grads(rows * width), value_grads(rows * width);
        Room<float> largest(rows), shares(rows), passed(rows);
        std::fill_n(factors.values, DEPTH * DEPTH, 1.0f);
#pragma omp for collapse(2)
        for (int64_t b = 0; b < B; b++)
            for (int64_t g = 0; g < G; g++) {
                const int64_t key_place = strides.of(b, H + g), value_place = strides.of(b, H + G + g);
                key.take(heads + key_place, strides.position, length, D);
                value.take(heads + value_place, strides.position, length, D);
                transpose(key, rows, depth, key_columns);
                std::fill_n(key_grads.values, rows * width, 0.0f);
                std::fill_n(value_grads.values, rows * width, 0.0f);
                for (int64_t h = g * H / G; h < (g + 1) * H / G; h++) {
                    const int64_t place = b * length * H * D + h * D;
                    query.take(heads + strides.of(b, h), strides.position, length, D, scale);
                    grad.take(gradient + place, H * D, length, D);
                    pack_transposed(query, rows, depth, queries);
                    pack_transposed(grad, rows, depth, grads);
                    pack(query, depth, rows, width, queries_in_rows);
                    pack(grad, depth, rows, width, grads_in_rows);
                    std::fill_n(query_grads.values, width * rows, 0.0f);
                    std::copy_n(statistics + (b * H + h) * length, length, largest.values);
                    std::copy_n(statistics + (B * H + b * H + h) * length, length, shares.values);
                    for (int64_t i = 0; i < length; i++) {
                        Vector products{};  // of each weight's gradient, what all weights of the query pass on
                        each_vector(D, [&](int64_t d, int64_t n) {
                            products += load(grad + i * depth + d, n) * load(mixed + place + i * H * D + d, n);
                        });
                        passed[i] = sum(products);
                    }
                    for (int64_t first = 0; first < length; first += DEPTH) {
                        for (int64_t at = first; at < length; at += DEPTH) {
                            for (int64_t j = 0; j < DEPTH; j += TILE)
                                for (int64_t i = 0; i < DEPTH; i += TILE) {
                                    multiply<false>(scores + j * DEPTH + i, DEPTH, key + (first + j) * depth, depth,
                                                    queries + (at + i) * depth, depth / DEPTH);
                                    multiply<false>(weight_grads + j * DEPTH + i, DEPTH, value + (first + j) * depth,
                                                    depth, grads + (at + i) * depth, depth / DEPTH);
                                }
                            if (dropout) dropout.columns(b, uint64_t(h) << 24 | uint64_t(at), first, factors);
                            for (int64_t j = 0; j < DEPTH; j++) {
                                T *weight_row = weights + j * rows + at, *grad_row = score_grads + j * rows + at;
                                for (int64_t i = 0; i < DEPTH; i += LANES) {
                                    const int64_t cell = j * DEPTH + i;
                                    const Vector difference = load(scores + cell) - load(largest + at + i);
                                    const Vector weight = exponential(difference) * load(shares + at + i);
                                    const Vector factor = load(factors + cell);
                                    const Vector own = load(weight_grads + cell) * factor - load(passed + at + i);
                                    store(weight_row + i, weight * factor);
                                    store(grad_row + i, weight * own);
                                }
                                const int64_t hidden = std::max<int64_t>(first + j - at, 0);  // queries before this key
                                const int64_t end = std::min(DEPTH, length - at);
                                std::fill_n(weight_row, hidden, T{});
                                std::fill_n(grad_row, hidden, T{});
                                std::fill(weight_row + end, weight_row + DEPTH, T{});
                                std::fill(grad_row + end, grad_row + DEPTH, T{});
                            }
                            pack(score_grads + at, rows, DEPTH, DEPTH, packed);
                            for (int64_t d = 0; d < width; d += TILE)
                                for (int64_t i = 0; i < DEPTH; i += TILE)
                                    multiply<true>(query_grads + d * rows + at + i, rows,
                                                   key_columns + d * rows + first, rows, packed + i * DEPTH, 1);
                        }
                        const int64_t steps = (rows - first) / DEPTH;
                        for (int64_t j = 0; j < DEPTH; j += TILE)
                            for (int64_t d = 0; d < width; d += TILE) {
                                multiply<true>(value_grads + (first + j) * width + d, width, weights + j * rows + first,
                                               rows, grads_in_rows + d * rows + first * TILE, steps);
                                multiply<true>(key_grads + (first + j) * width + d, width,
                                               score_grads + j * rows + first, rows,
                                               queries_in_rows + d * rows + first * TILE, steps);
                            }
                    }
                    for (int64_t i = 0; i < length; i += LANES)
                        for (int64_t d = 0; d < D; d += LANES) {
                            T* query_place = out + strides.of(b, h) + i * strides.position + d;
                            Square square;
                            for (int64_t j = 0; j < LANES; j++)
                                square[j] = same_bits<Bits>(load(query_grads + (d + j) * rows + i));
                            transpose(square);
                            for (int64_t j = 0; j < std::min(LANES, length - i); j++)
                                store(query_place + j * strides.position, same_bits<Vector>(square[j]) * scale,
                                      std::min(LANES, D - d));
                        }
                }
                for (int64_t i = 0; i < length; i++)
                    each_vector(D, [&](int64_t d, int64_t n) {
                        store(out + key_place + i * strides.position + d, load(key_grads + i * width + d, n), n);
                        store(out + value_place + i * strides.position + d, load(value_grads + i * width + d, n), n);
                    });
            }
    }
}

// silu(gate) * up, (N, M), of gate and up in one matrix (N, 2 M).
void swiglu(int64_t threads, int64_t N, int64_t M, const T* gate_up, T* out) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < N; n++) {
        const T *gates = gate_up + n * 2 * M, *ups = gates + M;
        each_vector(M, [&](int64_t j, int64_t used) {
            const Vector gate = load(gates + j, used);
            store(out + n * M + j, gate * sigmoid(gate) * load(ups + j, used), used);
        });
    }
}

void swiglu_backward(int64_t threads, int64_t N, int64_t M, const T* gate_up, const T* gradient, T* out) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < N; n++) {
        const T *gates = gate_up + n * 2 * M, *ups = gates + M, *own = gradient + n * M;
        T *gate_gradients = out + n * 2 * M, *up_gradients = gate_gradients + M;
        each_vector(M, [&](int64_t j, int64_t used) {
            const Vector gate = load(gates + j, used), g = load(own + j, used), s = sigmoid(gate);
            store(gate_gradients + j, g * load(ups + j, used) * s * (1.0f + gate * (1.0f - s)), used);
            store(up_gradients + j, g * gate * s, used);
        });
    }
}

// GELU of x (N, M), in GPT-2's form with the tangent hyperbolic if `tanh`; and, in the place of x, the derivative.
void gelu(int64_t threads, int64_t N, int64_t M, int64_t tanh, T* x, T* out) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < N; n++)
        each_vector(M, [&](int64_t j, int64_t used) {
            T* place = x + n * M + j;
            Vector slope;
            const Vector own = load(place, used);
            store(out + n * M + j, tanh ? gelu_new(own, slope) : gelu(own, slope), used);
            store(place, slope, used);
        });
}

// The losses of targets (N) under logits (N, V), in nats; the logits become the gradient of the losses' sum.
void cross_entropy(int64_t threads, int64_t N, int64_t V, T* logits, const int64_t* targets, float* losses) {
    const int64_t width = padded(V, LANES);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Room<float> row(width);
#pragma omp for
        for (int64_t n = 0; n < N; n++) {
            T* own = logits + n * V;
            Vector maxima = all(-INFINITY), totals{};
            each_vector(V, [&](int64_t j, int64_t used) { store(row + j, load(own + j, used)); });
            std::fill(row + V, row + width, -INFINITY);
            for (int64_t j = 0; j < width; j += LANES) {
                const Vector values = load(row + j);
                maxima = values > maxima ? values : maxima;
            }
            const float largest = largest_of(maxima), of_target = row[targets[n]];
            for (int64_t j = 0; j < width; j += LANES) {
                const Vector weights = exponential(load(row + j) - largest);
                totals += weights;
                store(row + j, weights);
            }
            const float total = sum(totals), share = 1.0f / total;
            losses[n] = std::log(total) - (of_target - largest);
            row[targets[n]] -= total;  // the target's probability less 1
            each_vector(V, [&](int64_t j, int64_t used) { store(own + j, load(row + j) * share, used); });
        }
    }
}

// The gradient of an embedding (V, C), given the ids (N) of its rows that were read, and the gradient of what was read.
void embedding_backward(int64_t threads, int64_t N, int64_t C, int64_t V, const int64_t* ids, const float* gradient,
                        float* out) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t part = 0; part < threads; part++) {  // each thread has rows of its own
        const int64_t first = V * part / threads, end = V * (part + 1) / threads;
        std::fill(out + first * C, out + end * C, 0.0f);
        for (int64_t n = 0; n < N; n++) {
            if (ids[n] < first || ids[n] >= end) continue;
            const float* own = gradient + n * C;
            float* row = out + ids[n] * C;
            each_vector(C, [&](int64_t j, int64_t used) {
                store(row + j, load(row + j, used) + load(own + j, used), used);
            });
        }
    }
}

// Muon's update of several matrices, each by one thread. `places` (count, tensors): where weight, gradient and momentum
// are, and, if there are 4 tensors, the mean square of each row so far, by whose root the row is divided. `shapes` (count, 2): rows and columns. `step_sizes` (count): the learning rate of each.
void muon(int64_t threads, int64_t count, int64_t tensors, const int64_t* places, const int64_t* shapes,
          const float* step_sizes, float decay, float momentum, float beta2, float smallest_square, int64_t cautious,
          int64_t rounds, const float* coefficients, float smallest) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Tiles tiles;
#pragma omp for schedule(dynamic)
        for (int64_t number = 0; number < count; number++) {
            float* weight = reinterpret_cast<float*>(places[number * tensors]);
            const float* gradient = reinterpret_cast<const float*>(places[number * tensors + 1]);
            float* velocity = reinterpret_cast<float*>(places[number * tensors + 2]);
            const int64_t rows = shapes[number * 2], columns = shapes[number * 2 + 1];
            const bool tall = rows > columns;
            const int64_t side = padded(std::min(rows, columns), DEPTH), length = padded(std::max(rows, columns), DEPTH);
            const int64_t width = padded(columns, DEPTH);
            Room<T> update(rows * width), x(side * length);
            Vector squares{};
            for (int64_t i = 0; i < rows; i++)
                each_vector(columns, [&](int64_t j, int64_t used) {
                    const int64_t place = i * columns + j;
                    const Vector g = load(gradient + place, used), before = load(velocity + place, used);
                    const Vector after = before + (g - before) * (1.0f - momentum);
                    const Vector ahead = g + (after - g) * momentum;  // Nesterov's look ahead
                    squares += ahead * ahead;
                    store(velocity + place, after, used);
                    store(update + i * width + j, ahead, used);
                });
            const float inverse = 1.0f / std::max(std::sqrt(sum(squares)), smallest);
            if (tall)
                transpose(update, width, rows, columns, inverse, x, length);
            else
                for (int64_t i = 0; i < rows * width; i += LANES) store(x + i, load(update + i) * inverse);
            orthogonalize(side, length, rounds, coefficients[0], coefficients[1], coefficients[2], x);
            if (tall) transpose(x, length, columns, rows, 1.0f, update, width);
            const T* direction = tall ? update : x;
            for (int64_t i = 0; i < rows; i++) {
                float evened = 1.0f;
                if (tensors == 4) {
                    Vector squares{};
                    each_vector(columns, [&](int64_t j, int64_t used) {
                        const Vector own = load(direction + i * width + j, used);
                        squares += own * own;
                    });
                    // In units of the mean square of an orthogonal matrix.
                    const float now = sum(squares) / float(columns) * float(std::max(rows, columns));
                    float& so_far = reinterpret_cast<float*>(places[number * tensors + 3])[i];
                    so_far += (now - so_far) * (1.0f - beta2);
                    evened = 1.0f / std::sqrt(std::max(so_far, smallest_square));
                }
                each_vector(columns, [&](int64_t j, int64_t used) {
                    float* place = weight + i * columns + j;
                    const Vector own = load(place, used), toward = load(direction + i * width + j, used) * evened;
                    Vector shrunk = own * decay;
                    if (cautious) shrunk = toward * own > 0.0f ? shrunk : Vector{};
                    store(place, own - (toward * step_sizes[number] + shrunk), used);
                });
            }
        }
    }
}

}  // extern "C"
