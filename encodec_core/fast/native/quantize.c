/* Residual vector quantization: frames to codes, with torch's own bits in every distance.
 *
 * The distance of a residual r from an entry e is (|r|^2 - 2 r.e) + |e|^2, each step rounded as torch rounds it:
 *   2 r.e    one chain of fused multiply-adds over the channels, first to last, as MKL's sgemm: found so on an AMD
 *            EPYC for 4 rows and more, 12 entries and more, at most 192 channels;
 *   |r|^2    torch's sum, whose order depends on how the rows lie in memory and on the place of a row: `norms_of`;
 *   |e|^2    given.
 * Of equal distances the first entry wins. No distance goes to memory but the chosen one: a row keeps 16 minima.
 *
 * Rows are taken TILE at a time, transposed ([channel][STRIDE rows]) so that every step but the product works on
 * 16 rows at once; a panel of PANEL entries stays in the L1 cache while all tiles of a block of rows meet it, and the
 * block in the L2 cache while all codebooks pass.
 */
#include "kernels.h"

#include <math.h>

#define TILE 14       /* rows of a tile: 14 x 2 sums, 2 vectors of entries and one of a row fill the 32 registers */
#define STRIDE 16     /* rows of a tile in memory */
#define TILES 10      /* of a block */
#define PANEL 32      /* entries of a panel */
#define LANES _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define UNROLLED _Pragma("GCC unroll 16")

/* Frames that lie together: an item, or a part of one. Eight fields of eight bytes. */
typedef struct {
    const float *frames; /* channel d of frame t is frames[t * frame_stride + d / 16 * block_stride + d % 16] */
    uint16_t *codes;     /* [codebooks][num_frames] */
    float *distances;    /* [codebooks][num_frames], of the chosen entries */
    int64_t num_frames;
    int64_t frame_stride;
    int64_t block_stride;
    int64_t first_frame; /* its place in the item */
    int64_t item_frames; /* of the item, to be quantized as the references quantize it alone; 0: as one of a batch */
} encodec_piece;

typedef struct {
    const float *packed;  /* [codebooks][panels][dimension + 1][PANEL]: see encodec_pack_codebook */
    const float *entries; /* [codebooks][entries][dimension] */
    int64_t num_codebooks;
    int64_t num_entries;
    int64_t dimension;
} encodec_codebooks;

typedef struct {
    uint16_t *codes[STRIDE];
    float *distances[STRIDE];
    int64_t steps[STRIDE];  /* to the next codebook's code */
    __mmask16 is_contiguous; /* the rows whose squares are summed so, see norms_of */
    __mmask16 is_in_group;
    int num_rows;
    float norms[STRIDE];
    __m512 least[TILE];
    __m512i nearest[TILE];
} tile_state;

/* 16 x 16, in place. */
ENCODEC_INLINE void transpose(__m512 rows[16]) {
    __m512 pairs[16];
    UNROLLED for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    UNROLLED for (int i = 0; i < 16; i += 4) {
        for (int half = 0; half < 2; half++) {
            __m512d low = _mm512_castps_pd(pairs[i + half]), high = _mm512_castps_pd(pairs[i + 2 + half]);
            rows[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            rows[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
    /* rows[4 g + c]: in its four quarters q, column 4 q + c of the rows 4 g to 4 g + 3. */
    UNROLLED for (int column = 0; column < 4; column++) {
        __m512 a = _mm512_shuffle_f32x4(rows[column], rows[4 + column], 0x88);
        __m512 b = _mm512_shuffle_f32x4(rows[8 + column], rows[12 + column], 0x88);
        __m512 c = _mm512_shuffle_f32x4(rows[column], rows[4 + column], 0xdd);
        __m512 d = _mm512_shuffle_f32x4(rows[8 + column], rows[12 + column], 0xdd);
        pairs[column] = _mm512_shuffle_f32x4(a, b, 0x88);
        pairs[4 + column] = _mm512_shuffle_f32x4(c, d, 0x88);
        pairs[8 + column] = _mm512_shuffle_f32x4(a, b, 0xdd);
        pairs[12 + column] = _mm512_shuffle_f32x4(c, d, 0xdd);
    }
    UNROLLED for (int i = 0; i < 16; i++) rows[i] = pairs[i];
}

/* Rows of a contiguous matrix: four sums of eight lanes, added up lane by lane, then the lanes one after the other. */
ENCODEC_INLINE __m512 contiguous_norms(const float *tile, int64_t dimension) {
    __m512 total = _mm512_setzero_ps();
    for (int lane = 0; lane < 8; lane++) {
        __m512 sums[4];
        int64_t whole = dimension / 32 * 32;
        UNROLLED for (int i = 0; i < 4; i++) {
            sums[i] = _mm512_setzero_ps();
            for (int64_t d = 8 * i + lane; d < whole; d += 32) {
                __m512 value = _mm512_loadu_ps(tile + d * STRIDE);
                sums[i] = _mm512_add_ps(sums[i], _mm512_mul_ps(value, value));
            }
        }
        for (int64_t d = whole + lane; d < dimension; d += 8) {
            __m512 value = _mm512_loadu_ps(tile + d * STRIDE);
            sums[0] = _mm512_add_ps(sums[0], _mm512_mul_ps(value, value));
        }
        __m512 sum = _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), sums[2]), sums[3]);
        total = _mm512_add_ps(total, sum);
    }
    return total;
}

/* Columns of [dimension][frames], in `ways` interleaved sums, each of which is put aside every 16 terms. */
ENCODEC_INLINE __m512 column_norms(const float *tile, int64_t dimension, const int ways) {
    __m512 sums[4], aside[4];
    UNROLLED for (int i = 0; i < ways; i++) sums[i] = aside[i] = _mm512_setzero_ps();
    for (int64_t d = 0; d < dimension; d += 16 * ways) {
        int64_t end = d + 16 * ways <= dimension ? d + 16 * ways : dimension;
        for (int64_t at = d; at < end; at += ways) {
            UNROLLED for (int i = 0; i < ways; i++) {
                __m512 value = _mm512_loadu_ps(tile + (at + i) * STRIDE);
                sums[i] = _mm512_add_ps(sums[i], _mm512_mul_ps(value, value));
            }
        }
        if (end == d + 16 * ways) {
            UNROLLED for (int i = 0; i < ways; i++) {
                aside[i] = _mm512_add_ps(aside[i], sums[i]);
                sums[i] = _mm512_setzero_ps();
            }
        }
    }
    __m512 total = _mm512_add_ps(sums[0], aside[0]);
    UNROLLED for (int i = 1; i < ways; i++) total = _mm512_add_ps(total, _mm512_add_ps(sums[i], aside[i]));
    return total;
}

/* |r|^2 of 16 rows in the order of torch's sum (ATen/native/cpu/SumKernel.cpp, eight lanes; checked bit for bit with
 * torch 2.13 on one thread). A batch of items reaches the references' sum as rows of a contiguous matrix. A single item
 * reaches it as columns of [dimension][frames]: whole groups of 32 frames (of 4 where an item has fewer than 8) go one
 * way, the frames that are left another. */
ENCODEC_INLINE __m512 norms_of(const float *tile, int64_t dimension, const tile_state *state) {
    __mmask16 is_left = ~(state->is_contiguous | state->is_in_group);
    __m512 norms = _mm512_setzero_ps();
    if (state->is_contiguous) {
        norms = _mm512_mask_mov_ps(norms, state->is_contiguous, contiguous_norms(tile, dimension));
    }
    if (state->is_in_group) norms = _mm512_mask_mov_ps(norms, state->is_in_group, column_norms(tile, dimension, 1));
    if (is_left) norms = _mm512_mask_mov_ps(norms, is_left, column_norms(tile, dimension, 4));
    return norms;
}

/* One tile against one panel. */
ENCODEC_INLINE void meet(const float *tile, tile_state *state, const float *panel, int64_t dimension, int first_entry,
                         const int num_rows) {
    __m512 sums[TILE][2];
    UNROLLED for (int row = 0; row < num_rows; row++) sums[row][0] = sums[row][1] = _mm512_setzero_ps();
    for (int64_t d = 0; d < dimension; d++) {
        __m512 low = _mm512_loadu_ps(panel + d * PANEL), high = _mm512_loadu_ps(panel + d * PANEL + 16);
        UNROLLED for (int row = 0; row < num_rows; row++) {
            __m512 value = _mm512_set1_ps(tile[d * STRIDE + row]);
            sums[row][0] = _mm512_fmadd_ps(value, low, sums[row][0]);
            sums[row][1] = _mm512_fmadd_ps(value, high, sums[row][1]);
        }
    }
    __m512 squares[2] = {_mm512_loadu_ps(panel + dimension * PANEL), _mm512_loadu_ps(panel + dimension * PANEL + 16)};
    __m512i first = _mm512_add_epi32(_mm512_set1_epi32(first_entry), LANES);
    __m512i entries[2] = {first, _mm512_add_epi32(first, _mm512_set1_epi32(16))};
    UNROLLED for (int row = 0; row < num_rows; row++) {
        __m512 norm = _mm512_set1_ps(state->norms[row]);
        for (int i = 0; i < 2; i++) {
            __m512 distance = _mm512_add_ps(_mm512_sub_ps(norm, sums[row][i]), squares[i]);
            __mmask16 is_less = _mm512_cmp_ps_mask(distance, state->least[row], _CMP_LT_OQ);
            state->least[row] = _mm512_mask_mov_ps(state->least[row], is_less, distance);
            state->nearest[row] = _mm512_mask_mov_epi32(state->nearest[row], is_less, entries[i]);
        }
    }
}

#define MEET(rows)                                                                                                     \
    case rows: meet(tile, state, panel, dimension, first_entry, rows); break;

static ENCODEC_TARGET __attribute__((noinline)) void meet_panel(
    const float *tile, tile_state *state, const float *panel, int64_t dimension, int first_entry) {
    switch (state->num_rows) {
        MEET(1) MEET(2) MEET(3) MEET(4) MEET(5) MEET(6) MEET(7)
        MEET(8) MEET(9) MEET(10) MEET(11) MEET(12) MEET(13) MEET(14)
    }
}

/* What torch chooses for a row whose |r|^2 is not finite: the first NaN, else the first minimum. */
static ENCODEC_TARGET int64_t nearest_of_overflown(const float *row, float norm, const float *panels,
                                                   const float *entries, int64_t num_entries, int64_t dimension,
                                                   float *least) {
    int64_t nearest = 0;
    for (int64_t entry = 0; entry < num_entries; entry++) {
        float sum = 0;
        for (int64_t d = 0; d < dimension; d++) sum = fmaf(2 * row[d * STRIDE], entries[entry * dimension + d], sum);
        const float *panel = panels + entry / PANEL * PANEL * (dimension + 1);
        float distance = norm - sum + panel[dimension * PANEL + entry % PANEL];
        if (entry == 0 || !(distance >= *least)) {
            *least = distance;
            nearest = entry;
            if (isnan(distance)) break;
        }
    }
    return nearest;
}

/* The entry of one row: the least of its 16 minima, and of equal ones the first. */
static ENCODEC_TARGET int64_t nearest_of(const float *tile, const tile_state *state, int row, const float *panels,
                                         const float *entries, int64_t num_entries, int64_t dimension, float *least) {
    float norm = state->norms[row];
    if (!isfinite(norm)) {
        return nearest_of_overflown(tile + row, norm, panels, entries, num_entries, dimension, least);
    }
    *least = _mm512_reduce_min_ps(state->least[row]);
    __mmask16 is_least = _mm512_cmp_ps_mask(state->least[row], _mm512_set1_ps(*least), _CMP_EQ_OQ);
    return _mm512_mask_reduce_min_epi32(is_least, state->nearest[row]);
}

static ENCODEC_TARGET void choose(float *tile, tile_state *state, const encodec_codebooks *books, int64_t codebook,
                                  const float *panels) {
    const float *entries = books->entries + codebook * books->num_entries * books->dimension;
    const float *chosen[STRIDE];
    for (int row = 0; row < STRIDE; row++) {
        chosen[row] = entries; /* for the rows that only fill up */
        if (row >= state->num_rows) continue;
        float least = 0;
        int64_t entry = nearest_of(tile, state, row, panels, entries, books->num_entries, books->dimension, &least);
        chosen[row] += entry * books->dimension;
        state->codes[row][codebook * state->steps[row]] = (uint16_t)entry;
        state->distances[row][codebook * state->steps[row]] = least;
    }
    if (codebook + 1 == books->num_codebooks) return;
    for (int64_t d = 0; d < books->dimension; d += 16) {
        __m512 block[16];
        UNROLLED for (int row = 0; row < 16; row++) block[row] = _mm512_loadu_ps(chosen[row] + d);
        transpose(block);
        UNROLLED for (int i = 0; i < 16; i++) {
            float *values = tile + (d + i) * STRIDE;
            _mm512_storeu_ps(values, _mm512_sub_ps(_mm512_loadu_ps(values), block[i]));
        }
    }
}

/* A place in the list of pieces. */
typedef struct {
    const encodec_piece *piece;
    int64_t frame;
} cursor;

/* Fill a tile with the next `num_rows` frames. */
static ENCODEC_TARGET void fill(float *tile, tile_state *state, cursor *at, int num_rows, int64_t dimension) {
    const float *frames[STRIDE];
    int64_t strides[STRIDE];
    state->num_rows = num_rows;
    state->is_contiguous = state->is_in_group = 0;
    for (int row = 0; row < num_rows; row++) {
        while (at->frame == at->piece->num_frames) at->piece++, at->frame = 0;
        const encodec_piece *piece = at->piece;
        int64_t total = piece->item_frames, place = piece->first_frame + at->frame;
        int64_t in_groups = total < 8 ? total / 4 * 4 : total / 32 * 32;
        frames[row] = piece->frames + at->frame * piece->frame_stride;
        strides[row] = piece->block_stride;
        state->codes[row] = piece->codes + at->frame;
        state->distances[row] = piece->distances + at->frame;
        state->steps[row] = piece->num_frames;
        if (total < 2) state->is_contiguous |= 1 << row; /* a single frame is contiguous either way */
        else if (place < in_groups) state->is_in_group |= 1 << row;
        at->frame++;
    }
    /* Rows that only fill up are summed as others of the tile, so that they cost no third order. */
    __mmask16 is_filler = (__mmask16)(0xffff << num_rows);
    if (state->is_contiguous) state->is_contiguous |= is_filler;
    else if (state->is_in_group) state->is_in_group |= is_filler;
    for (int64_t d = 0; d < dimension; d += 16) {
        __m512 block[16];
        UNROLLED for (int row = 0; row < 16; row++) {
            block[row] = row < num_rows ? _mm512_loadu_ps(frames[row] + d / 16 * strides[row]) : _mm512_setzero_ps();
        }
        transpose(block);
        UNROLLED for (int i = 0; i < 16; i++) _mm512_storeu_ps(tile + (d + i) * STRIDE, block[i]);
    }
}

/* All codebooks over a block of tiles. */
static ENCODEC_TARGET void quantize_block(float *tiles, tile_state *states, int num_tiles,
                                          const encodec_codebooks *books) {
    int64_t dimension = books->dimension, num_panels = (books->num_entries + PANEL - 1) / PANEL;
    for (int64_t codebook = 0; codebook < books->num_codebooks; codebook++) {
        const float *panels = books->packed + codebook * num_panels * PANEL * (dimension + 1);
        for (int i = 0; i < num_tiles; i++) {
            tile_state *state = states + i;
            _mm512_storeu_ps(state->norms, norms_of(tiles + i * dimension * STRIDE, dimension, state));
            for (int row = 0; row < state->num_rows; row++) {
                state->least[row] = _mm512_set1_ps(INFINITY);
                state->nearest[row] = LANES;
            }
        }
        for (int64_t panel = 0; panel < num_panels; panel++) {
            for (int i = 0; i < num_tiles; i++) {
                meet_panel(tiles + i * dimension * STRIDE, states + i, panels + panel * PANEL * (dimension + 1),
                           dimension, (int)panel * PANEL);
            }
        }
        for (int i = 0; i < num_tiles; i++) {
            choose(tiles + i * dimension * STRIDE, states + i, books, codebook, panels);
        }
    }
}

/* Floats of one packed codebook. */
ENCODEC_EXPORT int64_t encodec_packed_codebook_size(int64_t num_entries, int64_t dimension) {
    return (num_entries + PANEL - 1) / PANEL * PANEL * (dimension + 1);
}

/* entries [num_entries][dimension], squares [num_entries] -> packed [panels][dimension + 1][PANEL]: twice the entries,
 * which saves doubling the rows and rounds alike, then the squares. Entries that only fill up are infinitely far. */
ENCODEC_EXPORT void encodec_pack_codebook(const float *entries, const float *squares, int64_t num_entries,
                                          int64_t dimension, float *packed) {
    for (int64_t entry = 0; entry < (num_entries + PANEL - 1) / PANEL * PANEL; entry++) {
        float *column = packed + entry / PANEL * PANEL * (dimension + 1) + entry % PANEL;
        for (int64_t d = 0; d < dimension; d++) {
            column[d * PANEL] = entry < num_entries ? 2 * entries[entry * dimension + d] : 0;
        }
        column[dimension * PANEL] = entry < num_entries ? squares[entry] : INFINITY;
    }
}

/* Floats that encodec_quantize needs beside its arguments. */
ENCODEC_EXPORT int64_t encodec_quantize_scratch_size(int64_t dimension) { return TILES * STRIDE * dimension; }

/* Codes of all pieces. The dimension is a multiple of 16; a codebook has 1 to 65,536 entries. What a frame gets depends
 * on the frame and its place in its item alone. */
ENCODEC_EXPORT void encodec_quantize(const encodec_piece *pieces, int64_t num_pieces, const encodec_codebooks *books,
                                     float *scratch) {
    tile_state states[TILES];
    cursor at = {pieces, 0};
    int64_t left = 0;
    for (int64_t i = 0; i < num_pieces; i++) left += pieces[i].num_frames;
    while (left > 0) {
        int64_t num_blocks = (left + TILES * TILE - 1) / (TILES * TILE), rows = (left + num_blocks - 1) / num_blocks;
        int num_tiles = (int)((rows + TILE - 1) / TILE);
        for (int i = 0; i < num_tiles; i++) {
            int begin = (int)(rows * i / num_tiles), end = (int)(rows * (i + 1) / num_tiles);
            fill(scratch + i * STRIDE * books->dimension, states + i, &at, end - begin, books->dimension);
        }
        quantize_block(scratch, states, num_tiles, books);
        left -= rows;
    }
}
