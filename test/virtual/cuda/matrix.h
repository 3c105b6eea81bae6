// Elements of matrix fragments: their formats, and where lanes hold them. Shared by mma.sync and wgmma.
#pragma once

#include <cstdint>

#include "lower.h"

namespace vcuda {

/** The value of one element of a matrix operand, from its bits. Integers are exact in a double too. */
inline double elementValue(Type type, uint64_t bits) {
  switch (type) {
    case Type::F16: return fromHalf(uint16_t(bits));
    case Type::BF16: return fromBfloat(uint16_t(bits));
    // tf32 is what the upper 19 bits say.
    case Type::TF32: return asFloat(uint32_t(bits) & 0xffffe000u);
    case Type::F32: return asFloat(uint32_t(bits));
    case Type::F64: return asDouble(bits);
    case Type::E4M3: return valueOf(kE4M3, uint32_t(bits & 255));
    case Type::E5M2: return valueOf(kE5M2, uint32_t(bits & 255));
    case Type::U8: return uint8_t(bits);
    case Type::S8: return int8_t(bits);
    case Type::S32: return int32_t(bits);
    default: return 0;
  }
}

}  // namespace vcuda
