/* An LSTM layer over up to 16 lanes at once, every lane with the bits that torch's gives it alone.
 *
 * torch's (oneDNN 3.12, `rnn brgemm:avx512_core`, float32 inference, batch 1) computes, for every step and gate,
 *
 *     a recording of several frames:  sum = ((iteration chain) + (layer chain)) + bias
 *     a recording of one frame:       sum = (layer chain, gone on with by the iteration's) + bias
 *
 * where a chain is one fused multiply-add after another over the channels 0, 1, 2, ..., from zero, of the input (layer)
 * or of the hidden state before (iteration), for any number of channels; then
 *
 *     cell = fma(sigmoid(i), tanh(g), cell * sigmoid(f)),  hidden = tanh(cell) * sigmoid(o)
 *
 * Rows (a step of a lane) are independent in all of it, so that neither how many go together nor where the steps are
 * cut changes a bit.
 *
 * Letters: C channels, K the channel that a chain is at, R rows in hand. Layouts in here:
 *
 *     weights  [C / 16 blocks][K = C][4 gates i, f, g, o][16 channels]   of the layer, then of the iteration
 *     rows     [C / 16 blocks][R][16 channels]                           groups of at most 16
 *     sums     [R][4 gates][16 channels]
 */
#include "gates.h"

#define GATES 4
#define MOST_ROWS 16     /* of a group: the lanes of a step, or rows of the layer's product */
#define PANEL (GATES * ENCODEC_BLOCK)
#define LINE 64          /* bytes of a line of the cache */
#define LAYER_ROWS 128   /* of the layer's product at once: input, sums and a block of weights stay in the L2 cache */

/* Gates at once: as many as leave the sums in registers. */
#define WIDTH(R) ((R) <= 6 ? 4 : (R) <= 14 ? 2 : 1)

/* The chains of R rows and WIDTH gates: from zero, or from the sums that are there.
 *
 * Weights of all four gates at once are one stream, which the hardware fetches best alone: 86 GB/s of the 100 that one
 * core reads from its L3 cache (measured on an AMD EPYC, Zen 4), 72 with prefetching. Of fewer gates they are every
 * second or fourth line: there the block to come, `ahead`, is called into the L2 cache. */
ENCODEC_INLINE void chain_rows(const float *rows, const float *weights, int64_t channels, float *sums,
                               const int goes_on, const char *ahead, const int num_rows, const int width) {
    __m512 sum[MOST_ROWS][GATES];
#pragma GCC unroll 16
    for (int r = 0; r < num_rows; r++)
#pragma GCC unroll 4
        for (int g = 0; g < width; g++)
            sum[r][g] = goes_on ? _mm512_loadu_ps(sums + r * PANEL + g * ENCODEC_BLOCK) : _mm512_setzero_ps();
    for (int64_t block = 0; block < channels; block += ENCODEC_BLOCK) {
#pragma GCC unroll 16
        for (int k = 0; k < ENCODEC_BLOCK; k++) {
            __m512 weight[GATES];
#pragma GCC unroll 4
            for (int g = 0; g < width; g++) {
                weight[g] = _mm512_loadu_ps(weights + k * PANEL + g * ENCODEC_BLOCK);
                if (width < GATES) _mm_prefetch(ahead + (k * width + g) * LINE, _MM_HINT_T1);
            }
#pragma GCC unroll 16
            for (int r = 0; r < num_rows; r++) {
                const __m512 value = _mm512_set1_ps(rows[r * ENCODEC_BLOCK + k]);
#pragma GCC unroll 4
                for (int g = 0; g < width; g++) sum[r][g] = _mm512_fmadd_ps(value, weight[g], sum[r][g]);
            }
        }
        rows += num_rows * ENCODEC_BLOCK;
        weights += ENCODEC_BLOCK * PANEL;
        ahead += ENCODEC_BLOCK * width * LINE;
    }
#pragma GCC unroll 16
    for (int r = 0; r < num_rows; r++)
#pragma GCC unroll 4
        for (int g = 0; g < width; g++) _mm512_storeu_ps(sums + r * PANEL + g * ENCODEC_BLOCK, sum[r][g]);
}

/* The chains of R rows and all gates of one block of channels. */
#define DEFINE_CHAINS(R)                                                                                               \
    static ENCODEC_TARGET void chain_##R(const float *rows, const float *weights, int64_t channels, float *sums,       \
                                         int goes_on, const float *ahead) {                                            \
        const char *line = (const char *)ahead;                                                                        \
        for (int g = 0; g < PANEL; g += WIDTH(R) * ENCODEC_BLOCK, line += channels * WIDTH(R) * LINE) {                \
            if (goes_on)                                                                                               \
                chain_rows(rows, weights + g, channels, sums + g, 1, line, R, WIDTH(R));                               \
            else                                                                                                       \
                chain_rows(rows, weights + g, channels, sums + g, 0, line, R, WIDTH(R));                               \
        }                                                                                                              \
    }

DEFINE_CHAINS(1)
DEFINE_CHAINS(2)
DEFINE_CHAINS(3)
DEFINE_CHAINS(4)
DEFINE_CHAINS(5)
DEFINE_CHAINS(6)
DEFINE_CHAINS(7)
DEFINE_CHAINS(8)
DEFINE_CHAINS(9)
DEFINE_CHAINS(10)
DEFINE_CHAINS(11)
DEFINE_CHAINS(12)
DEFINE_CHAINS(13)
DEFINE_CHAINS(14)
DEFINE_CHAINS(15)
DEFINE_CHAINS(16)

typedef void (*chain)(const float *, const float *, int64_t, float *, int, const float *);
static const chain chains[MOST_ROWS + 1] = {0,       chain_1, chain_2,  chain_3,  chain_4,  chain_5,
                                            chain_6, chain_7, chain_8,  chain_9,  chain_10, chain_11,
                                            chain_12, chain_13, chain_14, chain_15, chain_16};

/* One call. Strides are in floats. */
typedef struct {
    int64_t num_lanes, channels, lane_stride, step_stride, block_stride;
    const float *layer_weights, *iteration_weights, *bias;
    float *hidden[2];   /* rows of the step before and of this one */
    float *layer_rows;  /* groups of at most 16 rows, one after another */
    float *layer_sums;  /* [C / 16][rows at once][4][16] */
    float *cell;        /* [lanes][C] */
    int goes_on;        /* the iteration's chains go on from the layer's */
} lstm_layer;

static int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }

static int64_t groups_of(int64_t num_rows) { return (num_rows + MOST_ROWS - 1) / MOST_ROWS; }

/* Copy 16 channels. */
static void copy_block(float *to, const float *from) { memcpy(to, from, ENCODEC_BLOCK * sizeof(float)); }

/* The layer's chains of `num_rows` rows, from the first lane of a step on, block by block of its weights. */
static ENCODEC_TARGET void multiply_layer(const lstm_layer *call, const float *steps, int64_t num_rows) {
    const int64_t channels = call->channels, num_blocks = channels / ENCODEC_BLOCK;
    for (int64_t row = 0; row < num_rows; row++) {
        const int64_t group = row / MOST_ROWS * MOST_ROWS, in_group = least(num_rows - group, MOST_ROWS);
        const int64_t step = row / call->num_lanes, lane = row % call->num_lanes;
        const float *const from = steps + step * call->step_stride + lane * call->lane_stride;
        float *to = call->layer_rows + group * channels + (row - group) * ENCODEC_BLOCK;
        for (int64_t block = 0; block < num_blocks; block++, to += in_group * ENCODEC_BLOCK)
            copy_block(to, from + block * call->block_stride);
    }
    float *sums = call->layer_sums;
    for (int64_t block = 0; block < num_blocks; block++) {
        const float *const weights = call->layer_weights + block * channels * PANEL;
        const float *const next = block + 1 < num_blocks ? weights + channels * PANEL : weights;
        for (int64_t row = 0; row < num_rows; row += MOST_ROWS, sums += MOST_ROWS * PANEL)
            chains[least(num_rows - row, MOST_ROWS)](call->layer_rows + row * channels, weights, channels, sums, 0,
                                                     row == 0 ? next : weights);
    }
}

/* Turn the sums of a block of 16 channels into the next cell and hidden state of every lane. */
ENCODEC_INLINE void close_gates(const lstm_layer *call, const float *sums, const float *layer_sums, int64_t block,
                                const float *residual, float *output) {
    const int64_t channels = call->channels, first = block * ENCODEC_BLOCK;
    float *const hidden = call->hidden[1] + first * call->num_lanes;
    for (int64_t lane = 0; lane < call->num_lanes; lane++) {
        __m512 gate[GATES];
#pragma GCC unroll 4
        for (int g = 0; g < GATES; g++) {
            const int64_t at = lane * PANEL + g * ENCODEC_BLOCK;
            gate[g] = _mm512_loadu_ps(sums + at);
            if (!call->goes_on) gate[g] = _mm512_add_ps(gate[g], _mm512_loadu_ps(layer_sums + at));
            gate[g] = _mm512_add_ps(gate[g], _mm512_loadu_ps(call->bias + g * channels + first));
        }
        float *const cell = call->cell + lane * channels + first;
        const __m512 kept = _mm512_mul_ps(_mm512_loadu_ps(cell), encodec_sigmoid(gate[1]));
        const __m512 next = _mm512_fmadd_ps(encodec_sigmoid(gate[0]), encodec_tanh(gate[2]), kept);
        __m512 shown = _mm512_mul_ps(encodec_tanh(next), encodec_sigmoid(gate[3]));
        _mm512_storeu_ps(cell, next);
        _mm512_storeu_ps(hidden + lane * ENCODEC_BLOCK, shown);
        const int64_t at = lane * call->lane_stride + block * call->block_stride;
        if (residual) shown = _mm512_add_ps(shown, _mm512_loadu_ps(residual + at));
        _mm512_storeu_ps(output + at, shown);
    }
}

/* One step. */
static ENCODEC_TARGET void iterate(lstm_layer *call, const float *layer_sums, int64_t layer_block,
                                   const float *residual, float *output) {
    float sums[MOST_ROWS * PANEL] __attribute__((aligned(64)));
    const int64_t channels = call->channels, lanes = call->num_lanes, num_blocks = channels / ENCODEC_BLOCK;
    for (int64_t block = 0; block < num_blocks; block++, layer_sums += layer_block) {
        const float *const weights = call->iteration_weights + block * channels * PANEL;
        const float *const next = block + 1 < num_blocks ? weights + channels * PANEL : call->iteration_weights;
        if (call->goes_on) memcpy(sums, layer_sums, lanes * PANEL * sizeof(float));
        chains[lanes](call->hidden[0], weights, channels, sums, call->goes_on, next);
        close_gates(call, sums, layer_sums, block, residual, output);
    }
    float *const before = call->hidden[0];
    call->hidden[0] = call->hidden[1];
    call->hidden[1] = before;
}

/* Floats of a layer's packed weights. */
ENCODEC_EXPORT int64_t encodec_lstm_packed_size(int64_t channels) { return 2 * GATES * channels * channels; }

/* Floats of scratch of a call. */
ENCODEC_EXPORT int64_t encodec_lstm_scratch_size(int64_t num_lanes, int64_t channels) {
    return ENCODEC_BLOCK + (2 * num_lanes + LAYER_ROWS + LAYER_ROWS * GATES) * channels;
}

/* Pack a layer's weights [4 C, C], as torch's LSTM has them, into `packed`, best on a multiple of 64 bytes. */
ENCODEC_EXPORT void encodec_lstm_pack(const float *weight_ih, const float *weight_hh, int64_t channels, float *packed) {
    for (int matrix = 0; matrix < 2; matrix++) {
        const float *const weights = matrix ? weight_hh : weight_ih;
        for (int64_t block = 0; block < channels; block += ENCODEC_BLOCK)
            for (int64_t k = 0; k < channels; k++)
                for (int64_t g = 0; g < GATES; g++)
                    for (int64_t c = 0; c < ENCODEC_BLOCK; c++)
                        *packed++ = weights[(g * channels + block + c) * channels + k];
    }
}

/* Run one layer from its state over the next steps of its lanes.
 *
 * steps, output   `num_steps` steps of `num_lanes` (1 to 16) lanes of C channels, block b of step t of lane l at
 *                 l * lane_stride + t * step_stride + b * block_stride; may be one
 * residual        added to the output (not to the state), of the same strides, or NULL; may be the output too
 * channels        C, of input and hidden state, a multiple of 16
 * packed_weights  of encodec_lstm_pack
 * bias            [4 C], bias_ih + bias_hh
 * hidden, cell    [num_lanes][C], before and after
 * scratch         encodec_lstm_scratch_size floats
 * is_one_frame    whether the whole recording, of which these may be a part, has one frame
 */
ENCODEC_EXPORT void encodec_lstm_layer(const float *steps, const float *residual, float *output, int64_t lane_stride,
                                       int64_t step_stride, int64_t block_stride, int64_t num_steps, int64_t num_lanes,
                                       int64_t channels, const float *packed_weights, const float *bias, float *hidden,
                                       float *cell, float *scratch, int64_t is_one_frame) {
    float *const aligned = (float *)(((uintptr_t)scratch + LINE - 1) & ~(uintptr_t)(LINE - 1));
    const int64_t rows = num_lanes * channels, num_blocks = channels / ENCODEC_BLOCK;
    float *const layer_rows = aligned + 2 * rows;
    lstm_layer call = {.num_lanes = num_lanes, .channels = channels, .lane_stride = lane_stride,
                       .step_stride = step_stride, .block_stride = block_stride, .layer_weights = packed_weights,
                       .iteration_weights = packed_weights + GATES * channels * channels, .bias = bias,
                       .hidden = {aligned, aligned + rows}, .layer_rows = layer_rows,
                       .layer_sums = layer_rows + LAYER_ROWS * channels, .cell = cell, .goes_on = is_one_frame != 0};
    for (int64_t lane = 0; lane < num_lanes; lane++)
        for (int64_t block = 0; block < num_blocks; block++)
            copy_block(call.hidden[0] + (block * num_lanes + lane) * ENCODEC_BLOCK,
                       hidden + lane * channels + block * ENCODEC_BLOCK);
    const int64_t at_once = LAYER_ROWS / num_lanes;
    for (int64_t first = 0; first < num_steps; first += at_once) {
        const int64_t count = least(num_steps - first, at_once);
        multiply_layer(&call, steps + first * step_stride, count * num_lanes);
        const int64_t layer_block = groups_of(count * num_lanes) * MOST_ROWS * PANEL;
        for (int64_t step = 0; step < count; step++) {
            const int64_t at = (first + step) * step_stride;
            iterate(&call, call.layer_sums + step * num_lanes * PANEL, layer_block, residual ? residual + at : NULL,
                    output + at);
        }
    }
    for (int64_t lane = 0; lane < num_lanes; lane++)
        for (int64_t block = 0; block < num_blocks; block++)
            copy_block(hidden + lane * channels + block * ENCODEC_BLOCK,
                       call.hidden[0] + (block * num_lanes + lane) * ENCODEC_BLOCK);
}
