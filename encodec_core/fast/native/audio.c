/* The convolution that ends in audio: few output channels, so that vectors lie along time.
 *
 * Sums are ordered as in conv.c: bias + chunk 0 + chunk 1 + ..., each chunk one chain of fused multiply-adds from zero.
 */
#include <stdlib.h>

#include "transpose.h"

#define VECTORS 8
#define STEPS (VECTORS * ENCODEC_BLOCK)  /* computed at once: enough chains to fill the pipeline */

static ENCODEC_TARGET void convolve_steps(const float *rows, const int32_t *offsets, const int32_t *chunk_ends,
                                          int64_t num_chunks, const float *weights, float bias, float *output) {
    __m512 total[VECTORS], sum[VECTORS];
    for (int v = 0; v < VECTORS; v++) total[v] = _mm512_set1_ps(bias);
    int64_t term = 0;
    for (int64_t chunk = 0; chunk < num_chunks; chunk++) {
        for (int v = 0; v < VECTORS; v++) sum[v] = _mm512_setzero_ps();
        for (; term < chunk_ends[chunk]; term++) {
            const __m512 weight = _mm512_set1_ps(weights[term]);
            const float *const values = rows + offsets[term];
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++)
                sum[v] = _mm512_fmadd_ps(_mm512_loadu_ps(values + v * ENCODEC_BLOCK), weight, sum[v]);
        }
        for (int v = 0; v < VECTORS; v++) total[v] = _mm512_add_ps(total[v], sum[v]);
    }
    for (int v = 0; v < VECTORS; v++) _mm512_storeu_ps(output + v * ENCODEC_BLOCK, total[v]);
}

/* Convolve blocked numbers to channels one after the other.
 *
 * input           [num_blocks][num_rows - 1 + span][16]
 * term_channels   [num_terms]: each term's input channel
 * term_steps      [num_terms]: time steps from the row's first input to the term's, below span
 * weights         [out_channels][num_terms]
 * output          [out_channels][num_rows], its channels `output_stride` floats apart
 *
 * Returns 0, or -1 without memory.
 */
ENCODEC_EXPORT int encodec_convolve_to_audio(const float *input, int64_t input_block, int64_t num_blocks,
                                             const int32_t *term_channels, const int32_t *term_steps,
                                             const int32_t *chunk_ends, int64_t num_chunks, const float *weights,
                                             const float *bias, int64_t span, int64_t num_rows, int64_t out_channels,
                                             float *output, int64_t output_stride) {
    if (num_rows <= 0) return 0;
    const int64_t num_terms = chunk_ends[num_chunks - 1], row_stride = STEPS + span - 1;
    const int64_t num_row_floats = num_blocks * ENCODEC_BLOCK * row_stride;
    /* Zeros, so that what is computed beyond the last row is computed of numbers. */
    float *const rows = calloc((size_t)num_row_floats, sizeof *rows);
    int32_t *const offsets = malloc((size_t)num_terms * sizeof *offsets);
    if (!rows || !offsets) {
        free(rows);
        free(offsets);
        return -1;
    }
    for (int64_t term = 0; term < num_terms; term++)
        offsets[term] = (int32_t)(term_channels[term] * row_stride) + term_steps[term];
    for (int64_t row = 0; row < num_rows; row += STEPS) {
        const int64_t count = num_rows - row < STEPS ? num_rows - row : STEPS;
        for (int64_t block = 0; block < num_blocks; block++)
            encodec_transpose(input + block * input_block + row * ENCODEC_BLOCK, count + span - 1,
                              rows + block * ENCODEC_BLOCK * row_stride, row_stride);
        for (int64_t channel = 0; channel < out_channels; channel++) {
            float *const place = output + channel * output_stride + row;
            float computed[STEPS];
            convolve_steps(rows, offsets, chunk_ends, num_chunks, weights + channel * num_terms, bias[channel],
                           count == STEPS ? place : computed);
            if (count < STEPS) memcpy(place, computed, (size_t)count * sizeof *computed);
        }
    }
    free(rows);
    free(offsets);
    return 0;
}
