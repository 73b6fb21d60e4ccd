// Vectors of the processor, and the functions of models that are computed with them, in float32.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

struct bfloat16 {
    uint16_t bits;
};

// Vectors of the compiler: it translates them for any processor.
#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
#else
constexpr int64_t LANES = 8;
#endif
typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef int32_t Integers __attribute__((vector_size(LANES * 4)));
typedef uint32_t Bits __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));
typedef int16_t Shorts __attribute__((vector_size(LANES * 2)));
typedef int8_t Bytes __attribute__((vector_size(LANES)));

template <typename To, typename From>
inline To same_bits(From x) {
    return __builtin_bit_cast(To, x);
}

inline Vector all(float x) { return Vector{} + x; }

inline float get(float x) { return x; }
inline float get(bfloat16 x) { return same_bits<float>(uint32_t(x.bits) << 16); }
inline void put(float& place, float x) { place = x; }
inline void put(int8_t& place, float x) { place = int8_t(x); }
inline void put(bfloat16& place, float x) {
    const uint32_t bits = same_bits<uint32_t>(x);
    place.bits = uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // to the nearest, ties to even
}

inline Vector load(const float* x) {
    Vector y;
    std::memcpy(&y, x, sizeof y);
    return y;
}
inline Vector load(const bfloat16* x) {
    Halves halves;
    std::memcpy(&halves, x, sizeof halves);
    return same_bits<Vector>(__builtin_convertvector(halves, Bits) << 16);
}
inline Vector load(const int8_t* x) {
#if defined(__AVX512F__)  // GCC 12 widens bytes one by one
    return Vector(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)))));
#elif defined(__AVX2__)
    return Vector(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x)))));
#else
    Bytes bytes;
    std::memcpy(&bytes, x, sizeof bytes);
    return __builtin_convertvector(__builtin_convertvector(bytes, Integers), Vector);
#endif
}
inline void store(float* place, Vector x) { std::memcpy(place, &x, sizeof x); }
inline void store(bfloat16* place, Vector x) {
#if defined(__AVX512BF16__)
    const __m256bh halves = _mm512_cvtneps_pbh(__m512(x));
#else
    const Bits bits = same_bits<Bits>(x);
    const Halves halves = __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, Halves);
#endif
    std::memcpy(place, &halves, sizeof halves);
}

// The same for the first `count` lanes; the others are `rest`.
template <typename V>
inline Vector load(const V* x, int64_t count, float rest = 0.0f) {
    if (count == LANES) return load(x);
    V row[LANES];
    for (V& value : row) put(value, rest);
    std::copy_n(x, count, row);
    return load(row);
}
template <typename V>
inline void store(V* place, Vector x, int64_t count) {
    if (count == LANES) return store(place, x);
    V row[LANES];
    store(row, x);
    std::copy_n(row, count, place);
}

// Call a function with the first place of each vector of a row, and the number of its lanes that are used.
template <typename Function>
inline void each_vector(int64_t length, Function function) {
    int64_t i = 0;
    for (; i + LANES <= length; i += LANES) function(i, LANES);
    if (i < length) function(i, length - i);
}

// Combine all lanes, the first half with the second until one is left.
template <int64_t COUNT, typename Function>
inline float reduce(const float* lanes, Function function) {
    if constexpr (COUNT == 2) {
        return function(lanes[0], lanes[1]);
    } else {
        typedef float Half __attribute__((vector_size(COUNT / 2 * 4)));
        Half first, second;
        std::memcpy(&first, lanes, sizeof first);
        std::memcpy(&second, lanes + COUNT / 2, sizeof second);
        first = function(first, second);
        return reduce<COUNT / 2>(reinterpret_cast<const float*>(&first), function);
    }
}

inline float sum(Vector x) {
    return reduce<LANES>(reinterpret_cast<const float*>(&x), [](auto a, auto b) { return a + b; });
}
inline float largest_of(Vector x) {
    return reduce<LANES>(reinterpret_cast<const float*>(&x), [](auto a, auto b) { return a > b ? a : b; });
}

// Exchange every second part, of HALF values, of two vectors.
#if __has_builtin(__builtin_shufflevector)
template <int64_t HALF, size_t... LANE>
inline void exchange(Bits& one, Bits& other, std::index_sequence<LANE...>) {
    const Bits two = other;
    other = __builtin_shufflevector(one, two, (LANE & HALF ? LANES + LANE : LANE + HALF)...);
    one = __builtin_shufflevector(one, two, (LANE & HALF ? LANES + LANE - HALF : LANE)...);
}
template <int64_t HALF>
inline void exchange(Bits& one, Bits& other) {
    exchange<HALF>(one, other, std::make_index_sequence<LANES>());
}
#else  // of older compilers
template <int64_t HALF>
inline void exchange(Bits& one, Bits& other) {
    for (int64_t lane = 0; lane < LANES; lane++)
        if (!(lane & HALF)) {
            const uint32_t kept = one[lane + HALF];
            one[lane + HALF] = other[lane];
            other[lane] = kept;
        }
}
#endif

typedef Bits Square[LANES];

// Exchange two quarters of a square, then of each quarter, down to single values: that transposes it.
template <int64_t HALF = LANES / 2>
inline void transpose(Square& rows) {
    for (int64_t i = 0; i < LANES; i++)
        if (!(i & HALF)) exchange<HALF>(rows[i], rows[i + HALF]);
    if constexpr (HALF > 1) transpose<HALF / 2>(rows);
}

// What the lanes of each of LANES vectors add up to: a lane for each.
template <int64_t HALF = LANES / 2>
inline Vector sums_of(Square& rows) {
    for (int64_t i = 0; i < HALF; i++) {
        exchange<HALF>(rows[i], rows[i + HALF]);
        rows[i] = same_bits<Bits>(same_bits<Vector>(rows[i]) + same_bits<Vector>(rows[i + HALF]));
    }
    if constexpr (HALF > 1) return sums_of<HALF / 2>(rows);
    return same_bits<Vector>(rows[0]);
}

// x, but no further from 0 than `most`. NaN stays NaN.
inline Vector clamped(Vector x, float most) {
    x = x > most ? all(most) : x;
    return x < -most ? all(-most) : x;
}

// e^x to within a few units in the last place, for x up to 80; 0 below -87, where float32 has few bits left. NaN stays
// NaN.
inline Vector exponential(Vector x) {
    x = x > 80.0f ? all(80.0f) : x;
    const Vector base = x < -87.0f ? all(-87.0f) : x;
    const Vector shifted = base * 1.44269504f + 12582912.0f;  // whose last bits are the nearest whole number
    const Vector whole = shifted - 12582912.0f;
    const Vector rest = base - whole * 0.693359375f + whole * 2.12194440e-4f;
    Vector y = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * rest + 8.3334519073e-3f;
    y = y * rest + 4.1665795894e-2f;
    y = y * rest + 1.6666665459e-1f;
    y = y * rest + 5.0000001201e-1f;
    y = y * (rest * rest) + rest + 1.0f;
    const Vector scaled = same_bits<Vector>(same_bits<Bits>(y) + (same_bits<Bits>(shifted) << 23));
    return x < -87.0f ? Vector{} : scaled;
}

// 1/x of a positive number below 2^125 by Newton's method, in a fifth of the time of a division.
inline Vector reciprocal(Vector x) {
    Vector y = same_bits<Vector>(0x7ef311c7 - same_bits<Integers>(x));  // off by an eighth at most
    for (int round = 0; round < 3; round++) y *= 2.0f - x * y;
    return y;
}

inline Vector sigmoid(Vector x) { return reciprocal(1.0f + exponential(-x)); }

// x times the normal distribution's integral up to x; and its derivative. Beyond |x| the integral is the bell curve times a
// polynomial in 1 / (1 + c |x|), as Abramowitz and Stegun's 26.2.17 has it; fitted to a relative error of 1.3e-7.
inline Vector gelu(Vector x, Vector& slope) {
    const Vector near = clamped(x, 14.0f), size = near < 0.0f ? -near : near;
    const Vector bell = exponential(size * size * -0.5f), t = reciprocal(1.0f + 0.2316419f * size);
    Vector beyond = t * -7.042392093e-2f + 2.476856925e-1f;
    beyond = beyond * t - 2.016585793e-1f;
    beyond = beyond * t + 2.252515464e-1f;
    beyond = beyond * t + 1.355286389e-2f;
    beyond = beyond * t + 1.026500735e-1f;
    beyond = beyond * t + 9.042014325e-2f;
    beyond = (beyond * t + 9.252224505e-2f) * t * bell;
    const Vector integral = x < 0.0f ? beyond : 1.0f - beyond;
    slope = integral + x * bell * 0.398942280f;
    return x * integral;
}

// What GPT-2 computes in its place, with the hyperbolic tangent; and its derivative.
inline Vector gelu_new(Vector x, Vector& slope) {
    constexpr float LINEAR = 1.595769122f, CUBIC = LINEAR * 0.044715f;
    const Vector near = clamped(x, 14.0f), square = near * near;
    const Vector e = exponential(-near * (LINEAR + CUBIC * square)), s = reciprocal(1.0f + e);
    slope = s + x * s * (e * s) * (LINEAR + 3.0f * CUBIC * square);
    return x * s;
}

// LayerNorm of a row, or RMS norm where there is no place for a mean. `bias` may be null.
template <typename V>
void norm_row(const float* x, const float* weight, const float* bias, int64_t C, float eps, V* out, float* inverse,
              float* mean) {
    float m = 0.0f;
    if (mean) {
        Vector total{};
        each_vector(C, [&](int64_t j, int64_t n) { total += load(x + j, n); });
        m = *mean = sum(total) / float(C);
    }
    Vector squares{};
    each_vector(C, [&](int64_t j, int64_t n) {
        const Vector own = load(x + j, n, m) - m;
        squares += own * own;
    });
    const float r = *inverse = 1.0f / std::sqrt(sum(squares) / float(C) + eps);
    each_vector(C, [&](int64_t j, int64_t n) {
        const Vector own = (load(x + j, n) - m) * r * load(weight + j, n);
        store(out + j, bias ? own + load(bias + j, n) : own, n);
    });
}

}  // namespace
