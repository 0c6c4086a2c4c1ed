// Pages go over into their cold form as soon as they are complete, and come back if a sequence is cut
// so far that its window lies where only that is left.
//
// What a query sees in codes follows from its position alone. So do its numbers, however a prompt
// was read: pages that are completed in the same pass are sealed before anything attends to them.
#include "model.h"
#include "pool.h"

namespace ds {

Codes Cold::codes(const Kernels &use, int64_t layer, int64_t page, int64_t group, bool with_values,
                  std::vector<uint8_t> &record) const {
  if (!file)
    return {cache.place(cache.keys, layer, page, group),
            with_values ? cache.place(cache.values, layer, page, group) : nullptr};
  uint8_t *bytes = reserve(record, file->record_bytes());
  if (!file->read(use, layer, page, group, with_values, bytes)) return {};
  return {file->keys_in(bytes), with_values ? file->values_in(bytes) : nullptr};
}

void seal(ds_model &model, const Kernels &use, int64_t layer, const Batch &batch) {
  const int64_t groups = model.n_kv_heads;
  const Cache &from = model.cache, &to = model.cold.cache;
  PageFile *file = model.cold.file.get();
  for (int64_t s = 0; s < batch.n_sequences; ++s) {
    if (!batch.cold || !batch.cold[s]) continue;
    const int64_t first = batch.lengths[s] / kPage;
    const int64_t last = (batch.lengths[s] + batch.counts[s]) / kPage;
    Pool::get().run((last - first) * groups, 1, [&](int64_t begin, int64_t end) {
      std::vector<uint8_t> record(file ? size_t(file->record_bytes()) : 0);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t page = first + i / groups, group = i % groups;
        const int64_t hot = batch.pages[s][page], cold = batch.cold[s][page];
        use.seal(from.key_page(layer, hot, group), from.value_page(layer, hot, group),
                 model.d_head, model.cold.bits,
                 file ? file->keys_in(record.data()) : to.place(to.keys, layer, cold, group),
                 file ? file->values_in(record.data()) : to.place(to.values, layer, cold, group));
        if (file) file->write(use, layer, cold, group, record.data());
      }
    });
  }
}

void expand(ds_model &model, int64_t cold_page, int64_t page) {
  const Kernels &use = kernels();
  const Cache &to = model.cache;
  const int64_t groups = model.n_kv_heads, n = int64_t(model.layers.size()) * groups;
  Pool::get().run(n, 1, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> record;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t layer = i / groups, group = i % groups;
      const Codes codes = model.cold.codes(use, layer, cold_page, group, true, record);
      if (!codes.keys) return;
      use.expand(codes.keys, codes.values, model.d_head, model.cold.bits,
                 to.key_page(layer, page, group), to.value_page(layer, page, group));
    }
  });
}

}  // namespace ds
