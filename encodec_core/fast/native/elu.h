/* ELU with the bits of torch's: its exponential minus one is Sleef's `expm1f`, of 1.0 units in the last place, which
 * carries two floats (Shibata and Petrogalli, "SLEEF: A Portable Vectorized Library of C Standard Mathematical
 * Functions", 2020). Here for arguments that are not positive alone. */
#ifndef ENCODEC_ELU_H
#define ENCODEC_ELU_H

#include "kernels.h"

typedef struct {
    __m512 high, low;
} encodec_pair;

ENCODEC_INLINE __m512 encodec_set(float value) { return _mm512_set1_ps(value); }

/* The sum of x, y and `low`, where |x| >= |y|. What x + y leaves over is a float, so that Sleef's six operations for any
 * order of magnitudes give the same. */
ENCODEC_INLINE encodec_pair encodec_add(__m512 x, __m512 y, __m512 low) {
    const __m512 sum = _mm512_add_ps(x, y);
    return (encodec_pair){sum, _mm512_add_ps(_mm512_sub_ps(y, _mm512_sub_ps(sum, x)), low)};
}

ENCODEC_INLINE encodec_pair encodec_multiply(encodec_pair x, encodec_pair y) {
    const __m512 product = _mm512_mul_ps(x.high, y.high);
    const __m512 rest = _mm512_fmsub_ps(x.high, y.high, product);
    return (encodec_pair){product, _mm512_fmadd_ps(x.high, y.low, _mm512_fmadd_ps(x.low, y.high, rest))};
}

ENCODEC_INLINE encodec_pair encodec_square(encodec_pair x) {
    const __m512 product = _mm512_mul_ps(x.high, x.high);
    const __m512 rest = _mm512_fmsub_ps(x.high, x.high, product);
    return (encodec_pair){product, _mm512_fmadd_ps(_mm512_add_ps(x.high, x.high), x.low, rest)};
}

/* exp(x) - 1 for x <= 0. */
ENCODEC_INLINE __m512 encodec_expm1(__m512 x) {
    const __m512 exponent = _mm512_roundscale_ps(_mm512_mul_ps(x, encodec_set(1.442695040888963407f)), 0);
    /* Exact: the constant, the first bits of ln 2, has few digits. */
    const __m512 reduced = _mm512_fmadd_ps(exponent, encodec_set(-0.693145751953125f), x);
    const __m512 tail = _mm512_mul_ps(exponent, encodec_set(-1.428606765330187045e-06f));
    encodec_pair s;
    s.high = _mm512_add_ps(reduced, tail);
    s.low = _mm512_add_ps(_mm512_sub_ps(reduced, s.high), tail);
    __m512 u = encodec_set(0.1980960224e-3f);
    u = _mm512_fmadd_ps(u, s.high, encodec_set(0.1394256484e-2f));
    u = _mm512_fmadd_ps(u, s.high, encodec_set(0.8333456703e-2f));
    u = _mm512_fmadd_ps(u, s.high, encodec_set(0.4166637361e-1f));
    const __m512 scaled = _mm512_mul_ps(s.high, u);
    const __m512 scaled_rest = _mm512_fmadd_ps(s.low, u, _mm512_fmsub_ps(s.high, u, scaled));
    encodec_pair t = encodec_add(encodec_set(0.166666659414234244790680580464f), scaled, scaled_rest);
    t = encodec_multiply(s, t);
    t = encodec_add(encodec_set(0.5f), t.high, t.low);
    t = encodec_multiply(encodec_square(s), t);
    t = encodec_add(s.high, t.high, _mm512_add_ps(s.low, t.low));
    const __m512 one = encodec_set(1.0f), sum = _mm512_add_ps(one, t.high);
    const __m512 rest = _mm512_add_ps(_mm512_add_ps(_mm512_sub_ps(one, sum), t.high), t.low);
    const __m512 high = _mm512_scalef_ps(sum, exponent), low = _mm512_scalef_ps(rest, exponent);
    const encodec_pair difference = encodec_add(encodec_set(-1.0f), high, low);
    const __m512 result = _mm512_add_ps(difference.high, difference.low);
    const __mmask16 is_minus_one = _mm512_cmp_ps_mask(x, encodec_set(-16.635532333438687426f), _CMP_LT_OQ);
    return _mm512_mask_mov_ps(result, is_minus_one, encodec_set(-1.0f));
}

/* Both zeros stay as they are. */
ENCODEC_INLINE __m512 encodec_elu_vector(__m512 x) {
    const __mmask16 is_kept = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ);
    return _mm512_mask_mov_ps(encodec_expm1(x), is_kept, x);
}

#endif
