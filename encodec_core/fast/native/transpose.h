/* Blocked numbers to channels one after the other. */
#ifndef ENCODEC_TRANSPOSE_H
#define ENCODEC_TRANSPOSE_H

#include "kernels.h"

/* 16 steps of 16 channels to 16 channels of 16 steps: first among fours, then fours among sixteen. */
ENCODEC_INLINE void encodec_transpose_tile(const float *x, float *rows, int64_t row_stride) {
    __m512 in[16], mixed[16];
#pragma GCC unroll 16
    for (int step = 0; step < 16; step++) in[step] = _mm512_loadu_ps(x + step * ENCODEC_BLOCK);
#pragma GCC unroll 4
    for (int four = 0; four < 16; four += 4) {
        const __m512 a = _mm512_unpacklo_ps(in[four], in[four + 1]), b = _mm512_unpackhi_ps(in[four], in[four + 1]);
        const __m512 c = _mm512_unpacklo_ps(in[four + 2], in[four + 3]), d = _mm512_unpackhi_ps(in[four + 2], in[four + 3]);
        mixed[four] = _mm512_shuffle_ps(a, c, 0x44);
        mixed[four + 1] = _mm512_shuffle_ps(a, c, 0xee);
        mixed[four + 2] = _mm512_shuffle_ps(b, d, 0x44);
        mixed[four + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
#pragma GCC unroll 4
    for (int place = 0; place < 4; place++) {
        const __m512 a = _mm512_shuffle_f32x4(mixed[place], mixed[place + 4], 0x44);
        const __m512 b = _mm512_shuffle_f32x4(mixed[place], mixed[place + 4], 0xee);
        const __m512 c = _mm512_shuffle_f32x4(mixed[place + 8], mixed[place + 12], 0x44);
        const __m512 d = _mm512_shuffle_f32x4(mixed[place + 8], mixed[place + 12], 0xee);
        _mm512_storeu_ps(rows + place * row_stride, _mm512_shuffle_f32x4(a, c, 0x88));
        _mm512_storeu_ps(rows + (place + 4) * row_stride, _mm512_shuffle_f32x4(a, c, 0xdd));
        _mm512_storeu_ps(rows + (place + 8) * row_stride, _mm512_shuffle_f32x4(b, d, 0x88));
        _mm512_storeu_ps(rows + (place + 12) * row_stride, _mm512_shuffle_f32x4(b, d, 0xdd));
    }
}

/* [num_steps][16] to 16 rows of num_steps. */
ENCODEC_INLINE void encodec_transpose(const float *x, int64_t num_steps, float *rows, int64_t row_stride) {
    int64_t step = 0;
    for (; step + 16 <= num_steps; step += 16) encodec_transpose_tile(x + step * ENCODEC_BLOCK, rows + step, row_stride);
    for (; step < num_steps; step++)
        for (int channel = 0; channel < 16; channel++) rows[channel * row_stride + step] = x[step * 16 + channel];
}

#endif
