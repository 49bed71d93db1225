/* A norm over all channels and time steps of an item, with the bits of torch's `native_group_norm` of one group.
 *
 * torch takes the numbers channel by channel, eight at a time: mean and sum of squared differences of 16 vectors
 * (Welford), then of neighbouring chunks in the manner of a binary counter, then over the eight lanes
 * (ATen/native/cpu/moments_utils.h, group_norm_kernel.cpp).
 */
#include <math.h>

#include "elu.h"
#include "transpose.h"

#define LANES 8
#define CHUNK 16
#define CHUNK_NUMBERS (CHUNK * LANES)
#define MAX_DEPTH 64

/* torch has this kernel for AVX2 alone: eight numbers at a time, on every machine. Where its compiler fused a product and
 * a sum was found by comparing bits. */
typedef struct {
    int64_t count;
    __m256 mean, squares;
} moments;

ENCODEC_INLINE moments no_moments(void) { return (moments){0, _mm256_setzero_ps(), _mm256_setzero_ps()}; }

ENCODEC_INLINE void add_moments(const moments *added, moments *to) {
    const int64_t count = to->count + added->count;
    const __m256 share = _mm256_set1_ps(count == 0 ? 0.0f : (float)added->count / (float)count);
    const __m256 delta = _mm256_sub_ps(added->mean, to->mean);
    const __m256 share_of_delta = _mm256_mul_ps(share, delta);
    const __m256 weighed = _mm256_mul_ps(delta, _mm256_set1_ps((float)to->count));
    to->mean = _mm256_add_ps(to->mean, share_of_delta);
    to->squares = _mm256_fmadd_ps(weighed, share_of_delta, _mm256_add_ps(to->squares, added->squares));
    to->count = count;
}

ENCODEC_INLINE moments chunk_moments(const float *x, int64_t num_vectors, const float *shares) {
    moments found = {num_vectors, _mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t index = 0; index < num_vectors; index++) {
        const __m256 value = _mm256_loadu_ps(x + index * LANES), delta = _mm256_sub_ps(value, found.mean);
        found.mean = _mm256_fmadd_ps(delta, _mm256_set1_ps(shares[index]), found.mean);
        found.squares = _mm256_fmadd_ps(delta, _mm256_sub_ps(value, found.mean), found.squares);
    }
    return found;
}

/* Neighbouring chunks, in the manner of a binary counter. */
ENCODEC_INLINE void count_chunk(const moments *found, int64_t chunk, int depth, moments *levels) {
    add_moments(found, &levels[0]);
    int64_t mask = chunk + 1;
    for (int level = 1; level < depth && (mask & 1) == 0; level++, mask >>= 1) {
        add_moments(&levels[level - 1], &levels[level]);
        levels[level - 1] = no_moments();
    }
}

/* Mean and variance of `count` numbers. */
static ENCODEC_TARGET void row_moments(const float *x, int64_t count, float *mean, float *variance) {
    const int64_t num_vectors = count / LANES, num_chunks = (num_vectors + CHUNK - 1) / CHUNK;
    int depth = 0;
    while (((int64_t)1 << depth) < num_chunks) depth++;
    float shares[CHUNK];
    for (int index = 0; index < CHUNK; index++) shares[index] = 1.0f / (float)(index + 1);
    moments levels[MAX_DEPTH];
    for (int level = 0; level < MAX_DEPTH; level++) levels[level] = no_moments();
    int64_t chunk = 0;
    /* Four chunks in turn: each is one chain of dependent additions. */
    for (; (chunk + 4) * CHUNK <= num_vectors; chunk += 4) {
        moments found[4];
#pragma GCC unroll 4
        for (int next = 0; next < 4; next++) found[next] = (moments){CHUNK, _mm256_setzero_ps(), _mm256_setzero_ps()};
        for (int index = 0; index < CHUNK; index++) {
            const __m256 share = _mm256_set1_ps(shares[index]);
#pragma GCC unroll 4
            for (int next = 0; next < 4; next++) {
                const __m256 value = _mm256_loadu_ps(x + (chunk + next) * CHUNK_NUMBERS + index * LANES);
                const __m256 delta = _mm256_sub_ps(value, found[next].mean);
                found[next].mean = _mm256_fmadd_ps(delta, share, found[next].mean);
                found[next].squares = _mm256_fmadd_ps(delta, _mm256_sub_ps(value, found[next].mean), found[next].squares);
            }
        }
        for (int next = 0; next < 4; next++) count_chunk(&found[next], chunk + next, depth, levels);
    }
    for (; chunk < num_chunks; chunk++) {
        const int64_t left = num_vectors - chunk * CHUNK;
        const moments found = chunk_moments(x + chunk * CHUNK_NUMBERS, left < CHUNK ? left : CHUNK, shares);
        count_chunk(&found, chunk, depth, levels);
    }
    for (int level = 1; level < depth; level++) add_moments(&levels[level], &levels[0]);
    float means[LANES], squares[LANES], m1 = 0.0f, m2 = 0.0f;
    _mm256_storeu_ps(means, levels[0].mean);
    _mm256_storeu_ps(squares, levels[0].squares);
    int64_t seen = 0;
    for (int64_t index = num_vectors * LANES; index < count; index++) {
        const float delta = x[index] - m1;
        seen++;
        m1 += delta / (float)seen;
        m2 = fmaf(delta, x[index] - m1, m2);
    }
    for (int lane = 0; lane < LANES; lane++) {
        const int64_t total = seen + num_vectors;
        const float share = total == 0 ? 0.0f : (float)num_vectors / (float)total, delta = means[lane] - m1;
        m1 = fmaf(share, delta, m1);
        m2 += fmaf(delta * delta * share, (float)seen, squares[lane]);
        seen = total;
    }
    *mean = m1;
    *variance = m2 / (float)count;
}

/* Normalise a blocked item.
 *
 * x              [blocks][num_steps][16], its blocks `block_stride` floats apart
 * weight, bias   [channels], a multiple of 16
 * scratch        channels * num_steps floats
 * first, count   the steps that are wanted, though all are counted
 * residual       [blocks][count][16], added to the result, or NULL
 * raw            the result [blocks][count][16], or NULL; where all steps are wanted it may be x
 * activated      its ELU, or NULL
 */
ENCODEC_EXPORT void encodec_normalise(const float *x, int64_t block_stride, int64_t channels, int64_t num_steps, double eps,
                                      const float *weight, const float *bias, float *scratch, int64_t first,
                                      int64_t count, const float *residual, int64_t residual_block, float *raw,
                                      int64_t raw_block, float *activated, int64_t activated_block) {
    for (int64_t block = 0; block < channels / ENCODEC_BLOCK; block++)
        encodec_transpose(x + block * block_stride, num_steps, scratch + block * ENCODEC_BLOCK * num_steps, num_steps);
    float mean, variance;
    row_moments(scratch, channels * num_steps, &mean, &variance);
    const float inverse = (float)(1.0 / sqrt((double)(variance > 0.0f ? variance : 0.0f) + eps));
    for (int64_t block = 0; block < channels / ENCODEC_BLOCK; block++) {
        const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(inverse), _mm512_loadu_ps(weight + block * ENCODEC_BLOCK));
        const __m512 shift = _mm512_fnmadd_ps(scale, _mm512_set1_ps(mean), _mm512_loadu_ps(bias + block * ENCODEC_BLOCK));
        const float *const wanted = x + block * block_stride + first * ENCODEC_BLOCK;
        for (int64_t step = 0; step < count; step++) {
            const int64_t place = step * ENCODEC_BLOCK;
            __m512 value = _mm512_fmadd_ps(scale, _mm512_loadu_ps(wanted + place), shift);
            if (residual) value = _mm512_add_ps(value, _mm512_loadu_ps(residual + block * residual_block + place));
            if (raw) _mm512_storeu_ps(raw + block * raw_block + place, value);
            if (activated) _mm512_storeu_ps(activated + block * activated_block + place, encodec_elu_vector(value));
        }
    }
}
