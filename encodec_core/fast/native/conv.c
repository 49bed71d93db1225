/* Convolutions over time on blocked activations, every output an exactly ordered sum.
 *
 * A convolution is a list of terms, each an input's place under the kernel and a weight, cut into chunks:
 *
 *     output = bias + chunk 0 + chunk 1 + ...         added from left to right
 *     chunk  = one chain of fused multiply-adds over its terms, from zero
 *
 * The caller orders terms and chunks. Rows (time steps) and lanes (channels) are independent, so that how many are
 * computed at once changes no bit.
 */
#include <stdlib.h>

#include "elu.h"

/* Everything about one call but the rows in hand. Strides are in floats. */
typedef struct {
    const float *input;
    const int32_t *offsets;     /* of each term's input, from that of its row */
    const int32_t *chunk_ends;  /* one past the last term of each chunk */
    int64_t num_chunks;
    const float *residual;      /* added to the output, or NULL */
    int64_t residual_block;
    float *raw;                 /* the output, or NULL */
    int64_t raw_block;
    float *activated;           /* the ELU of the output, or NULL */
    int64_t activated_block;
    int64_t output_step;        /* from the output of one row to that of the next */
    const float *late_bias;     /* added to the sum of the chunks; or NULL: the sum begins with the bias */
} convolution;

#define ROW_STEP(fixed, step) ((fixed) ? (fixed) : (step))

/* `rows` time steps from `row` on, `panel` blocks of channels from `block` on. */
ENCODEC_INLINE void convolve_rows(const convolution *call, const float *weights, const float *bias, int64_t row,
                                  int64_t block, const int64_t row_step, const int rows, const int panel) {
    __m512 sum[24][2], start[2];
    float totals[24 * 2 * ENCODEC_BLOCK] __attribute__((aligned(64))); /* there are no registers for them */
    const float *const input = call->input + row * row_step;
    const int64_t last = call->num_chunks - 1;
    for (int v = 0; v < panel; v++)
        start[v] = call->late_bias ? _mm512_setzero_ps() : _mm512_loadu_ps(bias + v * ENCODEC_BLOCK);
    int64_t term = 0;
    for (int64_t chunk = 0;; chunk++) {
        const int64_t end = call->chunk_ends[chunk];
#pragma GCC unroll 24
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < panel; v++) sum[r][v] = _mm512_setzero_ps();
        for (; term < end; term++) {
            const float *const under = input + call->offsets[term];
            __m512 weight[2];
            for (int v = 0; v < panel; v++) weight[v] = _mm512_loadu_ps(weights + (term * panel + v) * ENCODEC_BLOCK);
#pragma GCC unroll 24
            for (int r = 0; r < rows; r++) {
                const __m512 value = _mm512_set1_ps(under[r * row_step]);
                for (int v = 0; v < panel; v++) sum[r][v] = _mm512_fmadd_ps(value, weight[v], sum[r][v]);
            }
        }
        if (chunk == last) break;
        if (chunk > 0) {
#pragma GCC unroll 24
            for (int r = 0; r < rows; r++)
                for (int v = 0; v < panel; v++) {
                    float *const total = totals + (r * panel + v) * ENCODEC_BLOCK;
                    _mm512_store_ps(total, _mm512_add_ps(_mm512_load_ps(total), sum[r][v]));
                }
        } else {
#pragma GCC unroll 24
            for (int r = 0; r < rows; r++)
                for (int v = 0; v < panel; v++)
                    _mm512_store_ps(totals + (r * panel + v) * ENCODEC_BLOCK, _mm512_add_ps(start[v], sum[r][v]));
        }
    }
    /* The last chunk's, or the only one's, are in registers still. */
    if (last > 0) {
#pragma GCC unroll 24
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < panel; v++)
                sum[r][v] = _mm512_add_ps(_mm512_load_ps(totals + (r * panel + v) * ENCODEC_BLOCK), sum[r][v]);
    } else {
#pragma GCC unroll 24
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < panel; v++) sum[r][v] = _mm512_add_ps(start[v], sum[r][v]);
    }
    for (int v = 0; v < panel; v++) {
        const int64_t place = row * call->output_step;
        float *const raw = call->raw ? call->raw + (block + v) * call->raw_block + place : NULL;
        float *const activated = call->activated ? call->activated + (block + v) * call->activated_block + place : NULL;
        float *const first = raw ? raw : activated;
#pragma GCC unroll 24
        for (int r = 0; r < rows; r++) {
            __m512 output = sum[r][v];
            if (call->late_bias)
                output = _mm512_add_ps(output, _mm512_loadu_ps(call->late_bias + (block + v) * ENCODEC_BLOCK));
            if (call->residual)
                output = _mm512_add_ps(output, _mm512_loadu_ps(call->residual + (block + v) * call->residual_block +
                                                               place + r * call->output_step));
            if (first) _mm512_storeu_ps(first + r * call->output_step, output);
        }
        /* From memory: as many chains of the ELU as there are rows would need more registers than there are. */
        if (activated)
            for (int r = 0; r < rows; r++)
                _mm512_storeu_ps(activated + r * call->output_step,
                                 encodec_elu_vector(_mm512_loadu_ps(first + r * call->output_step)));
    }
}

typedef void (*rows_function)(const convolution *, const float *, const float *, int64_t, int64_t, int64_t);

#define DEFINE(STEP, ROWS, PANEL)                                                                               \
    static ENCODEC_TARGET void convolve_##STEP##_##ROWS##_##PANEL(const convolution *call, const float *weights, \
        const float *bias, int64_t row, int64_t block, int64_t row_step) {                                      \
        convolve_rows(call, weights, bias, row, block, ROW_STEP(STEP, row_step), ROWS, PANEL);                  \
    }
#define DEFINE_STEP(S)                                                                                     \
    DEFINE(S, 1, 1) DEFINE(S, 2, 1) DEFINE(S, 3, 1) DEFINE(S, 4, 1) DEFINE(S, 6, 1) DEFINE(S, 8, 1)        \
    DEFINE(S, 12, 1) DEFINE(S, 16, 1) DEFINE(S, 24, 1)                                                     \
    DEFINE(S, 1, 2) DEFINE(S, 2, 2) DEFINE(S, 3, 2) DEFINE(S, 4, 2) DEFINE(S, 5, 2) DEFINE(S, 6, 2)        \
    DEFINE(S, 7, 2) DEFINE(S, 8, 2) DEFINE(S, 9, 2) DEFINE(S, 10, 2) DEFINE(S, 11, 2) DEFINE(S, 12, 2)     \
    DEFINE(S, 13, 2) DEFINE(S, 14, 2)
#define ROW(S, R, P) [R] = convolve_##S##_##R##_##P
#define NARROW(S)                                                                                               \
    { ROW(S, 1, 1), ROW(S, 2, 1), ROW(S, 3, 1), ROW(S, 4, 1), ROW(S, 6, 1), ROW(S, 8, 1), ROW(S, 12, 1),        \
      ROW(S, 16, 1), ROW(S, 24, 1) }
#define WIDE(S)                                                                                                 \
    { ROW(S, 1, 2), ROW(S, 2, 2), ROW(S, 3, 2), ROW(S, 4, 2), ROW(S, 5, 2), ROW(S, 6, 2), ROW(S, 7, 2),         \
      ROW(S, 8, 2), ROW(S, 9, 2), ROW(S, 10, 2), ROW(S, 11, 2), ROW(S, 12, 2), ROW(S, 13, 2), ROW(S, 14, 2) }

/* Distances of rows known to the compiler: one sample of mono audio, and strides of 1, 2, 4, 5 and 8 steps. */
DEFINE_STEP(0)
DEFINE_STEP(1)
DEFINE_STEP(16)
DEFINE_STEP(32)
DEFINE_STEP(64)
DEFINE_STEP(80)
DEFINE_STEP(128)

#define MAX_ROWS 24
static const int64_t known_steps[] = {0, 1, 16, 32, 64, 80, 128};
static const rows_function narrow[][MAX_ROWS + 1] = {NARROW(0), NARROW(1), NARROW(16), NARROW(32), NARROW(64),
                                                     NARROW(80), NARROW(128)};
static const rows_function wide[][MAX_ROWS + 1] = {WIDE(0), WIDE(1), WIDE(16), WIDE(32), WIDE(64), WIDE(80), WIDE(128)};

/* As many rows at once as there are kernels for, in as few calls as the most allows; the last one reaches back. */
static int64_t choose_rows(const rows_function *functions, int64_t num_rows, int64_t most) {
    const int64_t num_calls = (num_rows + most - 1) / most;
    int64_t rows = (num_rows + num_calls - 1) / num_calls;
    while (rows < num_rows && rows < most && !functions[rows]) rows++;
    while (rows > num_rows || !functions[rows]) rows--;
    return rows;
}

static void convolve_panel(const convolution *call, const float *weights, const float *bias, int64_t num_rows,
                           int64_t block, int64_t row_step, int panel) {
    int known = 0;
    for (int index = 1; index < (int)(sizeof known_steps / sizeof *known_steps); index++)
        if (known_steps[index] == row_step) known = index;
    const rows_function *const functions = panel == 2 ? wide[known] : narrow[known];
    const int64_t rows = choose_rows(functions, num_rows, panel == 2 ? 14 : MAX_ROWS);
    for (int64_t row = 0; row < num_rows; row += rows)
        functions[rows](call, weights, bias, row + rows <= num_rows ? row : num_rows - rows, block, row_step);
}

static ENCODEC_TARGET void convolve_panels(const convolution *call, const float *weights, const float *bias,
                                           int64_t num_terms, int64_t num_rows, int64_t num_blocks, int64_t row_step) {
    for (int64_t block = 0; block < num_blocks; block += 2) {
        const int panel = block + 1 < num_blocks ? 2 : 1;
        convolve_panel(call, weights + block * ENCODEC_BLOCK * num_terms, bias + block * ENCODEC_BLOCK, num_rows, block,
                       row_step, panel);
    }
}

/* Where each term's input is, from that of its row; NULL without memory. */
static int32_t *find_offsets(const int32_t *term_blocks, const int32_t *term_places, int64_t num_terms,
                             int64_t input_block) {
    int32_t *const offsets = malloc((size_t)num_terms * sizeof *offsets);
    if (offsets)
        for (int64_t term = 0; term < num_terms; term++)
            offsets[term] = (int32_t)(term_blocks[term] * input_block) + term_places[term];
    return offsets;
}

/* Convolve.
 *
 * input           [channels / step_size][time][step_size], step_size floats a time step: 16, or 1 for audio
 * term_blocks     [num_terms]: the block of channels of each term's input
 * term_places     [num_terms]: floats from the row's first input of that block to the term's
 * weights         [output channels / 32][num_terms][32], the last panel [num_terms][16] if an odd block is left over
 * bias            [output channels]
 * row_step        floats between the inputs of one output and the next
 * num_rows        outputs, in time
 * num_blocks      output channels / 16
 *
 * `raw` and `activated` may both be wanted, and neither may overlap the input or the residual: some rows are computed
 * twice. Terms lie within 2^31 floats of the row's first input. Returns 0, or -1 without memory.
 */
ENCODEC_EXPORT int encodec_convolve(const float *input, int64_t input_block, const int32_t *term_blocks,
                                    const int32_t *term_places, const int32_t *chunk_ends, int64_t num_chunks,
                                    const float *weights, const float *bias, int64_t row_step, int64_t num_rows,
                                    int64_t num_blocks, const float *residual, int64_t residual_block, float *raw,
                                    int64_t raw_block, float *activated, int64_t activated_block) {
    if (num_rows <= 0) return 0;
    const int64_t num_terms = chunk_ends[num_chunks - 1];
    int32_t *const offsets = find_offsets(term_blocks, term_places, num_terms, input_block);
    if (!offsets) return -1;
    const convolution call = {input, offsets, chunk_ends, num_chunks, residual, residual_block, raw, raw_block,
                              activated, activated_block, ENCODEC_BLOCK, NULL};
    convolve_panels(&call, weights, bias, num_terms, num_rows, num_blocks, row_step);
    free(offsets);
    return 0;
}

/* Convolve transposed: `stride` convolutions whose outputs take turns, each the sum of its chunks and then the bias.
 *
 * input           [channels / 16][time][16]
 * weights         [stride] of what `encodec_convolve` takes, in the order in which outputs take turns
 * trim            outputs cut from the start: turn p reads (p + trim) / stride steps further on
 * num_rows        inputs, in time, of which each makes `stride` outputs
 *
 * The rest is as of `encodec_convolve`.
 */
ENCODEC_EXPORT int encodec_upsample(const float *input, int64_t input_block, const int32_t *term_blocks,
                                    const int32_t *term_places, const int32_t *chunk_ends, int64_t num_chunks,
                                    const float *weights, const float *bias, int64_t stride, int64_t trim,
                                    int64_t num_rows, int64_t num_blocks, float *raw, int64_t raw_block,
                                    float *activated, int64_t activated_block) {
    if (num_rows <= 0) return 0;
    const int64_t num_terms = chunk_ends[num_chunks - 1];
    int32_t *const offsets = find_offsets(term_blocks, term_places, num_terms, input_block);
    if (!offsets) return -1;
    for (int64_t turn = 0; turn < stride; turn++) {
        const convolution call = {input + (turn + trim) / stride * ENCODEC_BLOCK,
                                  offsets,
                                  chunk_ends,
                                  num_chunks,
                                  NULL,
                                  0,
                                  raw ? raw + turn * ENCODEC_BLOCK : NULL,
                                  raw_block,
                                  activated ? activated + turn * ENCODEC_BLOCK : NULL,
                                  activated_block,
                                  stride * ENCODEC_BLOCK,
                                  bias};
        convolve_panels(&call, weights + turn * num_terms * num_blocks * ENCODEC_BLOCK, bias, num_terms, num_rows,
                        num_blocks, ENCODEC_BLOCK);
    }
    free(offsets);
    return 0;
}

/* The ELU of `count` floats, a multiple of 16; `input` and `output` may be the same. */
ENCODEC_EXPORT void encodec_elu(const float *input, float *output, int64_t count) {
    for (int64_t place = 0; place < count; place += ENCODEC_BLOCK)
        _mm512_storeu_ps(output + place, encodec_elu_vector(_mm512_loadu_ps(input + place)));
}

/* Where a call of a program reads or writes. */
typedef struct {
    int64_t tensor; /* its place in the list of tensors, or -1: none */
    int64_t offset; /* floats from the tensor's start */
    int64_t block;  /* floats from one block to the next, or -1: as the list says */
} encodec_place;

/* Eight bytes a field. Of calls that are no convolution only `does`, input, num_rows (floats of a block), num_blocks
 * and raw count. */
typedef struct {
    int64_t does;
    encodec_place input;
    const int32_t *term_blocks, *term_places, *chunk_ends;
    int64_t num_chunks;
    const float *weights, *bias;
    int64_t row_step, num_rows, num_blocks;
    encodec_place residual, raw, activated;
} encodec_call;

enum { DOES_CONVOLVE, DOES_COPY, DOES_ELU, DOES_ZERO };

typedef struct {
    float *start;
    int64_t block;
} encodec_tensor;

static float *start_of(const encodec_place *place, const encodec_tensor *tensors) {
    return place->tensor < 0 ? NULL : tensors[place->tensor].start + place->offset;
}

static int64_t block_of(const encodec_place *place, const encodec_tensor *tensors) {
    return place->tensor < 0 ? 0 : place->block < 0 ? tensors[place->tensor].block : place->block;
}

static void fill_blocks(const encodec_call *call, const encodec_tensor *tensors) {
    const size_t count = (size_t)call->num_rows;
    for (int64_t block = 0; block < call->num_blocks; block++) {
        float *const to = start_of(&call->raw, tensors) + block * block_of(&call->raw, tensors);
        if (call->does == DOES_ZERO) {
            memset(to, 0, count * sizeof *to);
            continue;
        }
        const float *const from = start_of(&call->input, tensors) + block * block_of(&call->input, tensors);
        if (call->does == DOES_COPY)
            memcpy(to, from, count * sizeof *to);
        else
            encodec_elu(from, to, call->num_rows);
    }
}

/* Make calls one after the other, on tensors that the places name. Returns 0, or -1 without memory. */
ENCODEC_EXPORT int encodec_run(const encodec_call *calls, int64_t num_calls, const encodec_tensor *tensors) {
    for (const encodec_call *call = calls; call < calls + num_calls; call++) {
        if (call->does != DOES_CONVOLVE) {
            fill_blocks(call, tensors);
            continue;
        }
        const int failed = encodec_convolve(
            start_of(&call->input, tensors), block_of(&call->input, tensors), call->term_blocks, call->term_places,
            call->chunk_ends, call->num_chunks, call->weights, call->bias, call->row_step, call->num_rows,
            call->num_blocks, start_of(&call->residual, tensors), block_of(&call->residual, tensors),
            start_of(&call->raw, tensors), block_of(&call->raw, tensors), start_of(&call->activated, tensors),
            block_of(&call->activated, tensors));
        if (failed) return failed;
    }
    return 0;
}
