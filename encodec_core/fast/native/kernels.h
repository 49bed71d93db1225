/* What the kernels of this folder share: AVX-512 code in an object that any x86-64 machine can load.
 *
 * Every sum has one fixed order, that of the kernels of oneDNN and MKL under torch's own float32 operators on AVX-512,
 * so that results are equal to theirs to the last bit and depend on no batch, length or thread. A fused multiply-add is
 * written where one is meant; the compiler makes none (-ffp-contract=off).
 *
 * Activations are "blocked": [channels / 16][time steps][16], float32, the channels of a block side by side. Channels
 * are filled up to a multiple of 16 with zeros.
 */
#ifndef ENCODEC_KERNELS_H
#define ENCODEC_KERNELS_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define ENCODEC_BLOCK 16
#define ENCODEC_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma")))
#define ENCODEC_INLINE static inline __attribute__((always_inline)) ENCODEC_TARGET
#define ENCODEC_EXPORT __attribute__((visibility("default"))) ENCODEC_TARGET

#endif
