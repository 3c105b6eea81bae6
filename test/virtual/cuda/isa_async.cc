// cp.async: data is taken when the instruction executes and lands when the thread waits for its group. Until then the
// destination bytes are marked, so that an access that comes too early is reported.
#include "async.h"

#include <bit>
#include <cstring>

namespace vcuda {
namespace {

/** r: destination base, source base, source size (or kNone), ignore predicate (or kNone). imm: offsets; imm2: size. */
void copyAsync(Warp& w, const Op& o, uint32_t m) {
  const uint32_t bytes = uint32_t(o.imm2 & 0xff);
  PendingCopy copy;
  copy.mask = m;
  copy.bytes = bytes;
  const uint32_t ignore = o.r[3] == kNone ? 0 : (o.imm2 & 0x400 ? ~w.pred(o.r[3]) : w.pred(o.r[3]));
  for (uint32_t bits = m; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    const uint64_t to = (o.imm2 & 0x100 ? w.reg<uint32_t>(o.r[0])[l] : w.reg<uint64_t>(o.r[0])[l]) + uint64_t(o.extra->values[0]);
    const uint64_t from = (o.imm2 & 0x200 ? w.reg<uint32_t>(o.r[1])[l] : w.reg<uint64_t>(o.r[1])[l]) + uint64_t(o.extra->values[1]);
    uint32_t size = o.r[2] == kNone ? bytes : w.reg<uint32_t>(o.r[2])[l];
    if ((ignore >> l) & 1) size = 0;
    if (size > bytes) fault(w, o, l, kLaunchFailed, "cp.async: the source size " + std::to_string(size) + " is larger than the copy");
    if (to % bytes || (size && from % bytes)) fault(w, o, l, kMisalignedAddress, "misaligned access: cp.async of " + std::to_string(bytes) + " bytes");
    uint8_t* const host = resolveRange(w, o, l, Space::Shared, to, bytes, Use::Write);
    uint32_t offset;
    Block& block = sharedBlock(w, o, l, to, offset);
    for (uint32_t i = 0; i < bytes; ++i) {
      if (block.marks[offset + i] & kInFlight) fault(w, o, l, kLaunchFailed, "race: cp.async writes shared bytes to which another asynchronous copy is under way");
      block.marks[offset + i] |= kInFlight;
    }
    copy.group[size_t(l)] = w.copyGroup[size_t(l)];
    copy.to[size_t(l)] = uint64_t(host);
    auto& data = copy.data[size_t(l)];
    data.fill(0);
    if (size) std::memcpy(data.data(), resolveRange(w, o, l, Space::Global, from, size, Use::Read), size);
  }
  w.copies.push_back(copy);
}

}  // namespace

void finishCopies(Warp& w, uint32_t mask, int64_t keep) {
  Block& block = *w.block;
  for (PendingCopy& copy : w.copies) {
    for (uint32_t bits = copy.mask & mask; bits; bits &= bits - 1) {
      const size_t l = size_t(std::countr_zero(bits));
      if (keep >= 0 && int64_t(copy.group[l]) + keep >= int64_t(w.copyGroup[l])) continue;
      uint8_t* const to = reinterpret_cast<uint8_t*>(copy.to[l]);
      std::memcpy(to, copy.data[l].data(), copy.bytes);
      std::memset(block.marks.data() + (to - block.shared.data()), kSet, copy.bytes);
      copy.mask &= ~(1u << l);
    }
  }
  std::erase_if(w.copies, [](const PendingCopy& c) { return c.mask == 0; });
}

void lowerCpAsync(Assembler& a) {
  if (!a.take("async")) a.fail("cp is .async");
  for (const std::string& m : a.in().modifiers)
    if (m == "bulk") return lowerCpAsyncBulk(a);
  a.require(80, 70);
  if (a.take("commit_group")) {
    a.expectOperands(0);
    a.emit([](Warp& w, const Op&, uint32_t m) {
      for (uint32_t bits = m; bits; bits &= bits - 1) ++w.copyGroup[size_t(std::countr_zero(bits))];
    });
    return;
  }
  if (a.take("wait_all")) {
    a.expectOperands(0);
    a.emit([](Warp& w, const Op&, uint32_t m) { finishCopies(w, m, -1); });
    return;
  }
  if (a.take("wait_group")) {
    a.expectOperands(1);
    a.emit([](Warp& w, const Op& o, uint32_t m) { finishCopies(w, m, o.imm); }).imm = a.immediate(0);
    return;
  }
  if (a.take("mbarrier")) {
    if (!a.take("arrive")) a.fail("cp.async.mbarrier is .arrive");
    const bool noinc = a.take("noinc");
    const Space said = takeSpace(a);
    if (a.takeType() != Type::B64) a.fail("the type is .b64");
    a.expectOperands(1);
    const Address at = a.address(0);
    const Space space = spaceOf(a, said, at);
    Op& op = a.emit(
        [](Warp& w, const Op& o, uint32_t m) {
          uint64_t addresses[kLanes];
          addressesOf(w, o, 1, addresses);
          // The arrival is triggered when the thread's copies so far have completed: they complete now.
          finishCopies(w, m, -1);
          for (uint32_t bits = m; bits; bits &= bits - 1) {
            const int l = std::countr_zero(bits);
            uint8_t* object = mbarrierAt(w, o, l, Space(o.imm2 & 0xff), addresses[l]);
            if (!(o.imm2 & 0x1000)) mbarrierExpectArrival(object);
            mbarrierArrive(w, o, l, object, 1, 0, false);
          }
        },
        {kNone, at.base});
    op.imm = at.offset;
    op.imm2 = int64_t(space) | (at.baseBytes == 4 ? kNarrowBase : 0) | (noinc ? 0x1000 : 0);
    return;
  }
  const int cache = a.takeOne({"ca", "cg"});
  if (cache < 0) a.fail("cp.async is .ca or .cg");
  if (!a.take("shared") && !a.take("shared::cta")) a.fail("cp.async writes .shared");
  if (!a.take("global")) a.fail("cp.async reads .global");
  std::string word;
  while (a.takePrefix("L2::", &word))
    if (word == "L2::cache_hint") a.fail(".L2::cache_hint of cp.async is not known to this device");
  a.expectOperands(3, 4);
  const int64_t bytes = a.immediate(2);
  if (bytes != 16 && (cache == 1 || (bytes != 4 && bytes != 8))) a.fail("cp.async copies 16 bytes, .ca also 4 or 8");
  const Address to = a.address(0), from = a.address(1);
  spaceOf(a, Space::Shared, to);
  spaceOf(a, Space::Global, from);
  uint32_t size = kNone, ignore = kNone;
  bool negated = false;
  if (a.count() == 4) {
    const auto type = a.registerType(a.operand(3));
    if (type && *type == Type::Pred) ignore = a.predicate(3, &negated);
    else size = a.source(3, Type::U32);
  }
  Extra& x = a.extra();
  x.values = {to.offset, from.offset};
  Op& op = a.emit(copyAsync, {to.base, from.base, size, ignore});
  op.extra = &x;
  op.imm2 = bytes | (to.baseBytes == 4 ? 0x100 : 0) | (from.baseBytes == 4 ? 0x200 : 0) | (negated ? 0x400 : 0);
}

void addAsyncCopies(LoweringTable& t) { t["cp"] = lowerCpAsync; }

}  // namespace vcuda
