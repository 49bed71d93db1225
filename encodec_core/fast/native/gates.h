/* The sigmoid and the tanh of an LSTM with the bits of oneDNN's (3.12, kernels for AVX-512): the same operations in the
 * same order on the same constants, which are those of its `jit_uni_eltwise_injector.cpp` (Apache License 2.0). */
#ifndef ENCODEC_GATES_H
#define ENCODEC_GATES_H

#include "kernels.h"

ENCODEC_INLINE __m512 encodec_bits(uint32_t bits) { return _mm512_castsi512_ps(_mm512_set1_epi32((int32_t)bits)); }

/* tanh(x) for x >= 0 is a polynomial of degree 6 in the distance from the left end of x's interval. Row d holds the
 * coefficients of degree d: one interval for each half binade from 2^-12 to 8, then two that end it. */
static const uint32_t encodec_tanh_coefficients[7][32] __attribute__((aligned(64))) = {
    {
        0x00000000, 0x39bfffff, 0x39ffffff, 0x3a3ffffe, 0x3a7ffffb, 0x3abffff7, 0x3affffeb, 0x3b3fffdc,
        0x3b7fffab, 0x3bbfff70, 0x3bfffeab, 0x3c3ffdc0, 0x3c7ffaab, 0x3cbff701, 0x3cffeaad, 0x3d3fdc08,
        0x3d7faacd, 0x3dbf7081, 0x3dfeacc9, 0x3e3dc7fd, 0x3e7acbf5, 0x3eb77a9f, 0x3eec9a9f, 0x3f22991f,
        0x3f42f7d6, 0x3f67b7cc, 0x3f76ca83, 0x3f7ebbe9, 0x3f7fd40c, 0x3f7fff32, 0x3f7ffffc, 0x3f800000},
    {
        0x3f800000, 0x3f800018, 0x3f7fffe8, 0x3f7fffda, 0x3f7fffdc, 0x3f7fffdc, 0x3f7fffac, 0x3f7fff70,
        0x3f7ffeec, 0x3f7ffdc0, 0x3f7ffbed, 0x3f7ff704, 0x3f7feff5, 0x3f7fdbca, 0x3f7fbfff, 0x3f7f7041,
        0x3f7f009b, 0x3f7dc36c, 0x3f7c0aa8, 0x3f7734b8, 0x3f70a4de, 0x3f5f1fd8, 0x3f495493, 0x3f18b9ec,
        0x3ed706cb, 0x3e390b06, 0x3d90b11f, 0x3c21a053, 0x3aaf7fdb, 0x37ccc1a3, 0x355c6733, 0x00000000},
    {
        0x00000000, 0xbe4e0ff1, 0x3d25b1b1, 0x3d6b6dab, 0x3c9fb1d5, 0xbabff06f, 0x3c07b3f6, 0xbb3fc1bc,
        0x3a9f5921, 0xbbbf06f2, 0xbbb0f402, 0xbc47db9e, 0xbc73d5e7, 0xbca25bda, 0xbcfca780, 0xbd40e07c,
        0xbd7dab03, 0xbdbe4a0f, 0xbdfb14a5, 0xbe36cc8d, 0xbe6bd102, 0xbe9fe7c5, 0xbeba0f10, 0xbec206a8,
        0xbea3c388, 0xbe277d62, 0xbd8b7960, 0xbc209f49, 0xbaad44ca, 0xb7c6eeac, 0xb663aa41, 0x00000000},
    {
        0x00000000, 0x45b3ae96, 0xc414eb20, 0xc450e02e, 0xc3152b4e, 0xbead2f56, 0xc2162e02, 0xbeb4bd5a,
        0xc11a59a4, 0xbed2f507, 0xc020d32c, 0x3dd0f506, 0xbf2a75e2, 0xbff950e3, 0xbed47334, 0xbe809b8c,
        0xbeb64532, 0xbe961a5b, 0xbe9b63ac, 0xbea0d4b2, 0xbe828a77, 0xbe378612, 0xbdc20908, 0x3d2d3957,
        0x3dd46e89, 0x3db3f629, 0x3d2c5e7b, 0x3bd20403, 0x3a59dfae, 0x3770af45, 0x372cc014, 0x00000000},
    {
        0x00000000, 0xcc981a1b, 0x4a7edd3d, 0x4ab1007c, 0x48fedd9c, 0x41a557b5, 0x477ee32a, 0x422557f5,
        0x45ff3ce4, 0x42a55641, 0x446e0867, 0xc33dc19a, 0x42915214, 0x43af4fad, 0x4110fe88, 0xc1099b75,
        0x3fc8a8dc, 0xbfbeaef5, 0xbe365aad, 0x3f4d9652, 0x3ddfa08f, 0x3e34e9b8, 0x3e2d07a6, 0x3dc63567,
        0x3cdaeb78, 0xbcd17537, 0xbc92829c, 0xbb43ab99, 0xb9b471dd, 0xb6baad5a, 0xb78bafc7, 0x00000000},
    {
        0x00000000, 0x52f688d5, 0xd0505c72, 0xd08f98e3, 0xce505cc9, 0xc7162b8a, 0xcc5061d6, 0xc7162bdf,
        0xca50b37f, 0xc7162a3a, 0xc8422086, 0x471a714e, 0xc5ece1f1, 0xc70e3d90, 0xc3eba94a, 0x43e0c424,
        0xc21f4552, 0x42217cc8, 0x405e7dc4, 0xc10dd401, 0x3e96b602, 0xbd1a6d2f, 0xbd393883, 0xbd674682,
        0xbd310016, 0xb961e269, 0x3ba32495, 0x3a7680d5, 0x38b3173c, 0x35a9deea, 0x375c3f2a, 0x00000000},
    {
        0x00000000, 0xd8995ed1, 0x558285ea, 0x55b2cd69, 0x53028625, 0x4bc9991f, 0x5082898a, 0x4b4999b3,
        0x4e02c07c, 0x4ac99764, 0x4b72c822, 0xca40c0e1, 0x489413e4, 0x49b12224, 0x46134c4e, 0xc60c2d57,
        0x43c83910, 0xc3c872d1, 0xc186bc9e, 0x42325bc3, 0xbf2ffa4a, 0x3d9a203c, 0xbc545a43, 0xbae08fee,
        0x3c80225d, 0x3b1fd1df, 0xba36b9d1, 0xb91de544, 0xb71f100f, 0xb408e2ed, 0xb685fec8, 0x00000000},};

#define ENCODEC_SIGN 0x80000000u
#define ENCODEC_TANH_INTERVAL 0xffc00000u  /* sign, exponent and first bit of the mantissa */

ENCODEC_INLINE __m512 encodec_tanh(__m512 x) {
    const __m512 sign = _mm512_and_ps(x, encodec_bits(ENCODEC_SIGN));
    const __m512 magnitude = _mm512_andnot_ps(encodec_bits(ENCODEC_SIGN), x);
    const __m512i from_first = _mm512_sub_epi32(_mm512_castps_si512(magnitude), _mm512_set1_epi32(0x39800000));
    const __m512i interval = _mm512_srli_epi32(from_first, 22);  /* of this, `permutex2var` reads five bits */
    const __m512 distance = _mm512_sub_ps(magnitude, _mm512_and_ps(magnitude, encodec_bits(ENCODEC_TANH_INTERVAL)));
    __m512 value = _mm512_setzero_ps();
#pragma GCC unroll 7
    for (int degree = 6; degree >= 0; degree--) {
        const uint32_t *const row = encodec_tanh_coefficients[degree];
        const __m512 coefficient = _mm512_permutex2var_ps(_mm512_load_ps(row), interval, _mm512_load_ps(row + 16));
        value = degree == 6 ? coefficient : _mm512_fmadd_ps(value, distance, coefficient);
    }
    const __mmask16 is_curved = _mm512_cmp_ps_mask(encodec_bits(0x41102cb3), magnitude, _CMP_GT_OS);
    const __mmask16 is_linear = _mm512_cmp_ps_mask(encodec_bits(0x39ddb3d7), magnitude, _CMP_GT_OS);
    value = _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), is_curved, value);
    return _mm512_xor_ps(_mm512_mask_mov_ps(value, is_linear, magnitude), sign);
}

/* exp(x) for x <= 0: 2^n times a polynomial, 2^(n - 1) first and the last doubling apart. */
ENCODEC_INLINE __m512 encodec_exp(__m512 x) {
    const __m512 smallest = encodec_bits(0xc2aeac50);
    const __mmask16 is_zero = _mm512_cmp_ps_mask(x, smallest, _CMP_LT_OS);
    const __m512 bounded = _mm512_max_ps(_mm512_min_ps(x, encodec_bits(0x42b17218)), smallest);
    const __m512 scaled = _mm512_add_ps(_mm512_mul_ps(bounded, encodec_bits(0x3fb8aa3b)), _mm512_set1_ps(0.5f));
    const __m512 n = _mm512_roundscale_ps(scaled, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_fnmadd_ps(n, encodec_bits(0x3f317218), bounded);
    const __m512i exponent = _mm512_cvtps_epi32(_mm512_sub_ps(n, _mm512_set1_ps(1.0f)));
    const __m512i biased = _mm512_slli_epi32(_mm512_add_epi32(exponent, _mm512_set1_epi32(127)), 23);
    const __m512 power = _mm512_castsi512_ps(_mm512_mask_mov_epi32(biased, is_zero, _mm512_setzero_si512()));
    __m512 value = encodec_bits(0x3c07cfce);
    value = _mm512_fmadd_ps(value, rest, encodec_bits(0x3d2b9d0d));
    value = _mm512_fmadd_ps(value, rest, encodec_bits(0x3e2aad40));
    value = _mm512_fmadd_ps(value, rest, encodec_bits(0x3efffee3));
    value = _mm512_fmadd_ps(value, rest, encodec_bits(0x3f7ffffb));
    value = _mm512_fmadd_ps(value, rest, _mm512_set1_ps(1.0f));
    return _mm512_mul_ps(_mm512_mul_ps(value, power), _mm512_set1_ps(2.0f));
}

/* 1 / (1 + exp(-x)), through -|x| and the symmetry. */
ENCODEC_INLINE __m512 encodec_sigmoid(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __mmask16 is_negative = _mm512_movepi32_mask(_mm512_castps_si512(x));
    const __m512 power = encodec_exp(_mm512_or_ps(x, encodec_bits(ENCODEC_SIGN)));
    const __m512 below_half = _mm512_div_ps(power, _mm512_add_ps(power, one));
    return _mm512_mask_mov_ps(_mm512_sub_ps(one, below_half), is_negative, below_half);
}

#endif
