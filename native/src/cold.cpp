// Pages go over into their cold form as soon as they are complete, and come back if a sequence is cut
// so far that its window lies where only that is left.
//
// What a query sees in codes follows from its position alone. So do its numbers, however a prompt
// was read: pages that are completed in the same pass are sealed before anything attends to them.
#include "model.h"
#include "pool.h"

namespace ds {

void seal(ds_model &model, const Kernels &use, int64_t layer, const Batch &batch) {
  const int64_t groups = model.n_kv_heads;
  const Cache &from = model.cache, &to = model.cold.cache;
  for (int64_t s = 0; s < batch.n_sequences; ++s) {
    if (!batch.cold || !batch.cold[s]) continue;
    const int64_t first = batch.lengths[s] / kPage;
    const int64_t last = (batch.lengths[s] + batch.counts[s]) / kPage;
    Pool::get().run((last - first) * groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t page = first + i / groups, group = i % groups;
        const int64_t hot = batch.pages[s][page], cold = batch.cold[s][page];
        use.seal(from.key_page(layer, hot, group), from.value_page(layer, hot, group),
                 model.d_head, model.cold.bits, to.place(to.keys, layer, cold, group),
                 to.place(to.values, layer, cold, group));
      }
    });
  }
}

void expand(ds_model &model, int64_t cold_page, int64_t page) {
  const Kernels &use = kernels();
  const Cache &from = model.cold.cache, &to = model.cache;
  const int64_t groups = model.n_kv_heads, n = int64_t(model.layers.size()) * groups;
  Pool::get().run(n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t layer = i / groups, group = i % groups;
      use.expand(from.place(from.keys, layer, cold_page, group),
                 from.place(from.values, layer, cold_page, group), model.d_head, model.cold.bits,
                 to.key_page(layer, page, group), to.value_page(layer, page, group));
    }
  });
}

}  // namespace ds
