// cuTensorMapEncodeTiled with the checks that the driver documents.
#include <cstring>

#include "driver.h"
#include "tensor_map.h"

using namespace vcuda;

API int cuTensorMapEncodeTiled(void* out, int type, uint32_t rank, void* address, const uint64_t* dims, const uint64_t* strides, const uint32_t* box,
                               const uint32_t* steps, int interleave, int swizzle, int l2, int fill) {
  if (!device().initialised) return kNotInitialized;
  if (device().sm < 90) return kNotSupported;
  // CU_TENSOR_MAP_DATA_TYPE_*: u8 u16 u32 s32 u64 s64 f16 f32 f64 bf16 f32_ftz tf32 tf32_ftz
  static constexpr uint8_t kBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
  if (!out || (uint64_t(out) & 63) || !dims || !box || !steps || (rank > 1 && !strides)) return kInvalidValue;
  if (type < 0 || type > 12 || rank < 1 || rank > 5) return kInvalidValue;
  if (interleave != 0) return kNotSupported;
  if (swizzle < 0 || swizzle > 3 || l2 < 0 || l2 > 3 || fill < 0 || fill > 1) return kInvalidValue;
  if (uint64_t(address) & 15) return kInvalidValue;
  TensorMap m{};
  m.magic = kTensorMapMagic;
  m.type = uint8_t(type);
  m.rank = uint8_t(rank);
  m.swizzle = uint8_t(swizzle);
  m.fill = uint8_t(fill);
  m.elementBytes = kBytes[type];
  m.address = uint64_t(address);
  for (uint32_t i = 0; i < rank; ++i) {
    if (dims[i] == 0 || dims[i] > (uint64_t(1) << 32)) return kInvalidValue;
    if (box[i] == 0 || box[i] > 256 || steps[i] == 0 || steps[i] > 8) return kInvalidValue;
    m.dims[i] = uint32_t(dims[i] - 1);  // up to 2^32
    m.box[i] = uint16_t(box[i]);
    m.steps[i] = uint8_t(steps[i]);
    if (i > 0) {
      if (strides[i - 1] % 16 || strides[i - 1] >= (uint64_t(1) << 40)) return kInvalidValue;
      m.strides[i - 1] = strides[i - 1];
    }
  }
  const uint32_t inner = box[0] * m.elementBytes;
  if (inner % 16) return kInvalidValue;
  static constexpr uint32_t kSpan[] = {~0u, 32, 64, 128};
  if (inner > kSpan[swizzle]) return kInvalidValue;
  if (fill == 1 && !(type >= 6)) return kInvalidValue;
  for (uint32_t i = 0; i < rank; ++i)
    if (steps[i] != 1) return kNotSupported;  // element strides: not known to this device
  std::memset(out, 0, 128);
  std::memcpy(out, &m, sizeof m);
  return kSuccess;
}
