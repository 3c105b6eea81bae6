// Addresses of the six state spaces to host memory, with the checks of every access: allocation bounds, alignment,
// shared bytes that were never written or are still being written by an asynchronous copy.
#pragma once

#include "lower.h"
#include "program.h"

namespace vcuda {

enum class Use : uint8_t { Read, Write, Atomic };

/** Host pointers per lane; lanes that take no part have those of the first that does. */
struct Where {
  alignas(64) uint8_t* host[kLanes];  // all of them only if step is kScattered or after expand()
  int64_t step;                       // host[l] == host[0] + l * step: the bytes of the access, 0, or kScattered
  bool global;                        // may be touched by other host threads

  static constexpr int64_t kScattered = -1;
  void expand() {
    if (step == kScattered) return;
    for (int l = 1; l < kLanes; ++l) host[l] = host[0] + l * step;
    step = kScattered;
  }
};

/** The addresses of an operation with its base in r[reg] (imm2 bit 8: 32-bit base) plus imm. */
void addressesOf(const Warp& w, const Op& op, int reg, uint64_t* addresses);

/** Checks and translates. Shared bytes that are written become set. Throws Fault. */
void resolve(Warp& w, const Op& op, uint32_t mask, Space space, uint64_t* addresses, uint32_t bytes, Use use, Where& where);

/** One range of one space, for copies that one thread issues: any length. */
uint8_t* resolveRange(Warp& w, const Op& op, int lane, Space space, uint64_t address, uint64_t bytes, Use use);

/** A shared::cluster address to its block and offset. Throws Fault when it names no block. */
Block& sharedBlock(Warp& w, const Op& op, int lane, uint64_t address, uint32_t& offset);

/** Space of an instruction: the modifiers .global .shared{::cta,::cluster} .local .const .param{::entry,::func}, or generic. */
Space takeSpace(Assembler& a, bool* cluster = nullptr);

/** Checks that a named variable is in the instruction's space, and gives the space to use. */
Space spaceOf(Assembler& a, Space said, const Address& address);

constexpr int64_t kNarrowBase = 0x100;  // in Op::imm2: the base register has 32 bits

}  // namespace vcuda
