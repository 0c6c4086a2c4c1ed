/* Matrix products with 4-, 6- and 8-bit weights on a CPU. Plain C: no torch, no Python.
 *
 * Weights are w[n][k] = scale[n][k / group] * code[n][k] + zero[n][k / group], which covers GGUF's
 * Q4_0, Q4_1 (4 bits, groups of 32) and Q8_0 (8 bits, 32). With units, scales and zeros are whole
 * numbers times the unit of 256 columns: Q4_K (4 bits, 32) and Q6_K (6 bits, 16).
 * Activations are rounded to 8 bits in groups of 32 while they are read.
 * All functions are safe to call with wrong arguments: they return an error and touch nothing.
 */
#ifndef DEEPSEEK_NATIVE_H
#define DEEPSEEK_NATIVE_H

#include <stdint.h>

#if defined(__GNUC__)
#define DS_API __attribute__((visibility("default")))
#else
#define DS_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum ds_format { DS_U4 = 0, DS_U8 = 1, DS_U6K = 2, DS_U4K = 3 };
enum ds_dtype { DS_F32 = 0, DS_BF16 = 1 };
enum ds_level {
  DS_PORTABLE = 0,
  DS_AVX2 = 1,
  DS_AVX_VNNI = 2,
  DS_AVX512_VNNI = 3,
  DS_AVX512_BF16 = 4,
  DS_NEON_DOT = 5
};
enum ds_status {
  DS_OK = 0,
  DS_BAD_SHAPE = 1,   /* a dimension is not positive, too large or no multiple of 32 */
  DS_BAD_VALUE = 2,   /* a number is not finite, a code does not fit, or an adapter is not there */
  DS_BAD_POINTER = 3, /* null, or packed weights that are not aligned to 64 bytes */
  DS_BAD_ENUM = 4,    /* an unknown format, dtype or level */
  DS_NO_MEMORY = 5,
  DS_IO = 6,     /* a file cannot be read or written: see `ds_model_disk_error` */
  DS_DAMAGED = 7 /* what was read from a file is not what was written there */
};

/* What this processor can do at best, what is used now, and a choice of less (for tests). */
DS_API int ds_best_level(void);
DS_API int ds_level_in_use(void);
DS_API int ds_use_level(int level);

/* Threads that share a product, the calling one included: 1 to 256. */
DS_API int ds_use_threads(int n_threads);

/* Bytes of packed weights; 0 if the shape or the format is wrong. */
DS_API int64_t ds_packed_bytes(int format, int64_t n_out, int64_t n_in);

/* Zeroed memory aligned for packed weights, on huge pages where the system has them. */
DS_API void *ds_allocate(int64_t n_bytes);
DS_API void ds_release(void *memory);

/* Pack rows `first` to `first + n_rows` of a matrix; rows come in any portions of 16.
 *   codes  [n_rows][n_in]
 *   scales [n_rows][n_in / group], zeros likewise; null zeros: -2^(bits-1) * scale
 *   units  [n_rows][n_in / 256][2] of scales and zeros, for the formats that have them
 *   group  16 or 32 */
DS_API int ds_pack(int format, int64_t n_out, int64_t n_in, int group, int64_t first, int64_t n_rows,
            const uint8_t *codes, const float *scales, const float *zeros, const float *units,
            void *packed);

/* The weights of some rows as they are used in products, for tests. */
DS_API int ds_unpack(int format, int64_t n_out, int64_t n_in, int64_t first, int64_t n_rows,
              const void *packed, float *weights);

/* y[r][n] = sum over k of x[r][k] * w[n][k] (+ bias[n]); x and y have the same dtype. Rows of x
 * are n_in apart, rows of y `y_stride`, so that several matrices may write side by side.
 * The result of a row is the same to the last bit whatever the other rows, `n_rows` and the
 * number of threads are. */
DS_API int ds_matmul(int format, int64_t n_out, int64_t n_in, const void *packed, int dtype,
              int64_t n_rows, const void *x, const float *bias, void *y, int64_t y_stride);

/* A whole decoder of the Llama and Qwen2 families: new tokens of some sequences go through all
 * layers in one call instead of hundreds. Packed matrices and caches stay the caller's.
 *
 * Keys and values lie in pages of `ds_page_positions()` positions. A sequence is a list of page
 * numbers; sequences may share pages, as long as none of them writes there. */
typedef struct ds_model ds_model;
enum ds_matrix {
  DS_Q = 0, DS_K = 1, DS_V = 2, DS_O = 3, DS_GATE = 4, DS_UP = 5, DS_DOWN = 6,
  DS_HEAD = 7, DS_EMBEDDING = 8 /* of no layer */
};

typedef struct ds_batch {
  int64_t n_sequences;
  const int64_t *counts;         /* new tokens of each sequence, at least one */
  const int64_t *lengths;        /* its earlier tokens, which are in its pages */
  const int32_t *const *tables;  /* its pages in order, with room for the new tokens */
  const int64_t *table_sizes;
  const int64_t *token_ids;      /* of all sequences; null: x holds their embeddings */
  /* Pages of each sequence's memory nodes, one for 16 pages of keys, with room for those of the
   * new tokens. Null: none are kept, and all of them see all that came before. */
  const int32_t *const *memory_tables;
  const int64_t *memory_sizes;
  /* Cold pages of each sequence, one for each page that is complete once the new tokens are there.
   * They are written as pages become complete, and read instead of pages behind the window, which
   * need not be there then: their numbers in `tables` may be -1. Null, or null for a sequence: it
   * reads all pages as they are. */
  const int32_t *const *cold_tables;
  const int64_t *cold_sizes;
  /* Of each sequence the position from which tokens ask: each chooses what it recalls for itself,
   * by the keys instead of memory nodes. Null: none does. */
  const int64_t *asks_from;
  /* Of each sequence the number of its adapter, or -1. Null: none has one. */
  const int64_t *adapters;
} ds_batch;

/* Pages of keys and values lie in blocks: page p of head g in layer l is in block
 * p / block_pages, at l * layer_stride + p % block_pages * page_stride + g * head_stride bytes.
 * What lies in a page is the library's own business. */
typedef struct ds_pages {
  int64_t n_blocks, block_pages;
  void *const *keys;   /* of each block */
  void *const *values; /* likewise; memory nodes have none */
  int64_t layer_stride, page_stride, head_stride;
} ds_pages;

/* What queries see that lie behind the first `n_dense` positions: the first pages,
 * the pages of the window before their own, and as many recalled ones between as memory nodes say. */
typedef struct ds_hierarchy {
  int64_t sink_pages, window_pages, recalled_pages;
  int64_t n_dense;
  int64_t n_reach; /* positions beyond which recalled pages are moved up to the window */
  float fusion;    /* how much of a layer's votes the next layer takes over; 0: nothing */
  int64_t looked_pages;  /* most whose memory nodes are looked at by each token that reads */
  int64_t scanned_pages; /* most whose keys are looked at by a token that asks */
} ds_hierarchy;

/* Changes with everything that a caller must know of. */
DS_API int ds_version(void);

/* Positions of a page. */
DS_API int64_t ds_page_positions(void);

/* Null if a shape does not fit: widths are multiples of 32, heads at most 256 wide. */
DS_API ds_model *ds_model_new(int64_t n_layers, int64_t d_model, int64_t n_heads,
                              int64_t n_kv_heads, int64_t d_head, int64_t d_ff, float epsilon);
DS_API void ds_model_free(ds_model *model);
/* Of head and embedding, the layer may be any. Head and embedding may be one matrix. */
DS_API int ds_model_set_matrix(ds_model *model, int64_t layer, int which, int format,
                               int64_t n_out, int64_t n_in, const void *packed,
                               const float *bias);
/* 0: before attention, 1: before feed-forward, 2: before the head, of no layer. Copied. */
DS_API int ds_model_set_norm(ds_model *model, int64_t layer, int which, const float *weight);
/* Rotations by whole pages [n_pages][d_head / 2], from none on, and by the positions of a page
 * [ds_page_positions()][d_head / 2]: a position is turned by both. */
DS_API int ds_model_set_rope(ds_model *model, int64_t n_pages, const float *page_cosines,
                             const float *page_sines, const float *cosines, const float *sines);
/* Keys and values, bfloat16: 64 * d_head numbers a head. */
DS_API int ds_model_set_cache(ds_model *model, const ds_pages *pages);

/* Pages of memory nodes: 64 vectors of each head, packed like a page of keys. */
DS_API int ds_model_set_memory(ds_model *model, const ds_pages *pages);

/* Keys and values in 8 or 4 bits: 64 * d_head * bits / 8 + 256 * ceil(d_head / 64) bytes a head.
 * Queries see the first `sink_pages`, their own and the `window_pages` before it as they are, all
 * others so. */
DS_API int ds_model_set_cold(ds_model *model, int bits, int64_t sink_pages, int64_t window_pages,
                             const ds_pages *pages);
/* Cold pages in a file instead, on Linux: the record of page p of head g in layer l is at p / block_pages *
 * block_stride + l * layer_stride + p % block_pages * page_stride + g * head_stride bytes. It holds
 * keys and values as above, and behind each of both 4 bytes for their checksum. */
typedef struct ds_page_file {
  int64_t fd;         /* is duplicated: the caller may close it */
  int64_t n_blocks, block_pages;
  int64_t block_stride, layer_stride, page_stride, head_stride;
  int64_t held_bytes; /* read and written until the system's page cache is told to let go */
} ds_page_file;
/* Call it again when the file has grown. What fails there ends a pass with DS_IO or DS_DAMAGED;
 * nothing of its new tokens counts then, and the same pass may be tried again. */
DS_API int ds_model_set_cold_file(ds_model *model, int bits, int64_t sink_pages,
                                  int64_t window_pages, const ds_page_file *file);
/* The system's number of the last pass's error, or 0. */
DS_API int ds_model_disk_error(const ds_model *model);
/* CRC-32C, as records have it behind keys and values. */
DS_API uint32_t ds_checksum(const void *bytes, int64_t n_bytes);
/* Make a page, in all layers, of what a cold page stands for. */
DS_API int ds_model_expand(ds_model *model, int64_t cold_page, int64_t page);
DS_API int ds_model_set_hierarchy(ds_model *model, const ds_hierarchy *hierarchy);
/* Where to note the pages that the batch's last queries recall: [layers][kv heads][recalled_pages],
 * -1 where there are fewer. Null: nowhere. */
DS_API int ds_model_trace(ds_model *model, int32_t *chosen);

/* An addition to the products with a matrix of a layer: y += scale * up (down x). */
typedef struct ds_low_rank {
  int64_t layer;
  int64_t which; /* DS_Q to DS_DOWN */
  int64_t rank;  /* 1 to 1,024 */
  const float *down; /* [rank][n_in] */
  const float *up;   /* [n_out][rank] */
  double scale;
} ds_low_rank;
/* Give the model an adapter: such additions, at most one a matrix. They are copied in bfloat16, and sums
 * are in single precision. Its number, which no other one ever gets, names it in batches. */
DS_API int ds_model_add_adapter(ds_model *model, int64_t n_parts, const ds_low_rank *parts,
                                int64_t *number);
/* Give its memory back. */
DS_API int ds_model_remove_adapter(ds_model *model, int64_t number);

/* The gate of a mixture of experts. Scores are sigmoids of products with x; biases take part in the
 * choice only. A row without a label may go to all groups or, with n_domains, to the best ones and
 * those for all; one with a label to its own and those for all. */
enum ds_gate_kind {
  DS_SHARES = 0, /* weights are scores divided by their sum */
  DS_SCORES = 1, /* scores as they are */
  DS_ONES = 2
};
typedef struct ds_gate {
  int64_t d_model, n_experts, n_active;
  int64_t n_parts;        /* experts of a group take turns to be these; a row has as many of each */
  int64_t n_groups, n_domains;
  int64_t kind;
  const int64_t *bounds;  /* [n_groups + 1] the first expert of each group */
  const int64_t *always;  /* [n_groups] whether it is for all */
  const float *weight;    /* [n_experts][d_model] */
  const float *bias;      /* [n_experts] */
  const float *null_row;  /* [d_model] of the expert that does nothing, or null */
  const float *null_bias;
  int64_t *load;          /* [n_groups + 1][n_experts + 1] is added to; null: nothing is counted */
} ds_gate;
/* Experts [n_rows][n_active], n_experts for an empty slot, and their weights, of x
 * [n_rows][d_model]. Domains are numbers of groups, -1 without a label; null: no row has one. */
DS_API int ds_gate_choose(const ds_gate *gate, int dtype, int64_t n_rows, const void *x,
                          const int64_t *domains, int64_t *experts, float *weights);

typedef struct ds_choice {
  int64_t n_rows, n_slots;
  const int64_t *experts; /* [n_rows][n_slots]; n_experts: nobody */
  const float *weights;
} ds_choice;

/* Experts of one layer, copied into tiles, in single precision or bfloat16. All widths but `sizes`
 * are multiples of 16.
 *   low rank: they add to the products of one or two matrices with one input; `first` and `second`
 *     are [sum of sizes][n_in] and [sum of sizes][n_outs[m]] of each matrix;
 *   else: SwiGLU layers; `first` is [2 * sum of sizes][n_in], of each expert the gate's rows and
 *     then the up matrix's, `second` [sum of sizes][n_outs[0]].
 * Weights of a choice are multiplied by `scale`. */
typedef struct ds_experts ds_experts;
DS_API int ds_experts_new(int is_low_rank, int dtype, int64_t n_experts, const int64_t *sizes,
                          double scale, int64_t n_in, int64_t n_matrices, const int64_t *n_outs,
                          void *const *first, void *const *second, ds_experts **made);
DS_API void ds_experts_free(ds_experts *experts);
DS_API int64_t ds_experts_bytes(const ds_experts *experts);
/* Copy the weights back to where they came from, or to other tensors of those shapes. */
DS_API int ds_experts_unpack(const ds_experts *experts, void *const *first, void *const *second);
/* Add what experts of low rank say of x to y, the products of all matrices side by side; and what
 * the others say of x, into y. All are in the experts' number format, rows behind each other. A
 * row's result is the same to the last bit whatever the other rows and the threads are. */
DS_API int ds_experts_add(const ds_experts *experts, const ds_choice *choice, const void *x,
                          void *y);
DS_API int ds_experts_run(const ds_experts *experts, const ds_choice *choice, const void *x,
                          void *y);
/* `ds_gate_choose` and `ds_experts_add` of the same x in one call. */
DS_API int ds_experts_route(const ds_experts *experts, const ds_gate *gate, int64_t n_rows,
                            const int64_t *domains, int64_t *chosen, float *weights, const void *x,
                            void *y);
/* Let experts of low rank add to a layer's gate and up products (`hidden`) and to its last
 * (`down`). They and what the gate points at stay the caller's. */
DS_API int ds_model_set_experts(ds_model *model, int64_t layer, const ds_gate *gate,
                                const ds_experts *hidden, const ds_experts *down);

/* Bring new tokens through all layers, into x [new tokens][d_model], and keep their keys and
 * values. A token's numbers are the same to the last bit whatever other sequences, chunks and
 * threads there are. */
DS_API int ds_model_forward(ds_model *model, const ds_batch *batch, float *x);

/* Last norm and head: logits [n_rows][vocabulary] of x [n_rows][d_model]. */
DS_API int ds_model_head(ds_model *model, int64_t n_rows, const float *x, float *logits);

#ifdef __cplusplus
}
#endif
#endif
