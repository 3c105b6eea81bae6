// From parsed instructions to a kernel's operations: operands become offsets into a warp's frame, calls are inlined,
// branches get their reconvergence points. The files isa_*.cc say per opcode which modifiers exist and what to execute.
#pragma once

#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "number.h"
#include "program.h"
#include "ptx.h"

namespace vcuda {

class Assembler;
using Lowering = void (*)(Assembler&);
using LoweringTable = std::unordered_map<std::string, Lowering>;

void addMoves(LoweringTable&);
void addIntegers(LoweringTable&);
void addFloats(LoweringTable&);
void addCompares(LoweringTable&);
void addConversions(LoweringTable&);
void addMemory(LoweringTable&);
void addAtomics(LoweringTable&);
void addControl(LoweringTable&);
void addWarpOps(LoweringTable&);
void addMatrices(LoweringTable&);
void addAsyncCopies(LoweringTable&);
void addMbarriers(LoweringTable&);
void addWarpgroups(LoweringTable&);

/** Addresses of module-level .global and .const variables. */
using Symbols = std::unordered_map<std::string, uint64_t>;

/** Decodes the entry `name`. Throws PtxError for what this device does not know. `sm` is 90 for sm_90. */
Kernel lowerKernel(std::shared_ptr<const Module> module, const Function& entry, const Symbols& symbols);

struct Address {
  Space space;         // of a named variable; Generic when a register is the base
  uint32_t base;       // frame offset of the base register, or of a constant
  int baseBytes;       // 4 or 8
  int64_t offset;
};

class Assembler {
 public:
  Assembler(std::shared_ptr<const Module> module, const Function& entry, const Symbols& symbols);
  Kernel assemble();

  // The instruction being lowered
  const Instruction& in() const { return *in_; }
  [[noreturn]] void fail(const std::string& message) const;
  /** True if the modifier is there; each must be taken once, what is left at the end is an error. */
  bool take(std::string_view modifier);
  bool takePrefix(std::string_view prefix, std::string* whole = nullptr);
  /** The first modifier not taken yet that names a type. */
  Type takeType();
  /** The first of `options` that is there, or -1. */
  int takeOne(std::initializer_list<std::string_view> options);
  Round takeRound(Round otherwise);
  bool takeVector(int& lanes);
  /** ptxas refuses an instruction below this target or PTX version (80 is 8.0); so does this device. */
  void require(int sm, int version, bool archSpecific = false) const;

  size_t count() const { return in_->operands.size(); }
  void expectOperands(size_t from, size_t to) const;
  void expectOperands(size_t n) const { expectOperands(n, n); }
  const Operand& operand(size_t i) const;
  bool isVector(size_t i) const { return operand(i).kind == Operand::Kind::Vector; }

  // Operands to frame offsets
  uint32_t source(size_t i, Type type) { return source(operand(i), type); }
  uint32_t source(const Operand& o, Type type);
  uint32_t destination(size_t i, Type type) { return destination(operand(i), type); }
  uint32_t destination(const Operand& o, Type type);
  /** Any register of at least the type's width (ld, st, cvt); its width in bytes goes to `bytes`. */
  uint32_t wideSource(const Operand& o, Type type, int& bytes);
  uint32_t wideDestination(const Operand& o, Type type, int& bytes);
  uint32_t predicate(const Operand& o, bool* negated = nullptr);
  uint32_t predicate(size_t i, bool* negated = nullptr) { return predicate(operand(i), negated); }
  uint32_t predicateDestination(const Operand& o);
  uint32_t predicateDestination(size_t i) { return predicateDestination(operand(i)); }
  Address address(size_t i);
  Address address(const Operand& o);
  /** An immediate integer operand. */
  int64_t immediate(size_t i) { return immediate(operand(i)); }
  int64_t immediate(const Operand& o);
  std::optional<Type> registerType(const Operand& o) const;
  std::optional<Special> special(const Operand& o) const;
  uint32_t specialRegister(Special special);

  uint32_t constant(uint64_t value, int bytes);
  uint32_t constantPredicate(bool value);
  uint32_t scratch(int bytesPerLane);
  uint32_t scratchPredicate();
  Extra& extra();

  Op& emit(Handler handler, std::initializer_list<uint32_t> registers = {});

  // Control flow
  void branch(const std::string& label);
  void indexed(const std::string& table, uint32_t index);
  void leave(bool wholeThread);
  void call();
  Kernel& kernel() { return kernel_; }
  const Module& module() const { return *module_; }

 private:
  struct Place {
    Space space;
    uint64_t address;
    bool assigned = false;
  };
  struct Instance {
    const Function* function;
    std::vector<uint32_t> registers;
    std::vector<Place> variables;
    std::vector<size_t> labels;
    int depth;
  };
  struct Fixup {
    size_t op;
    int64_t slot;  // -1: target; otherwise an index into the op's table
    std::shared_ptr<Instance> instance;
    size_t label;  // kEnd: the end of an inlined function
  };
  static constexpr size_t kEnd = ~size_t(0);

  std::shared_ptr<const Module> module_;
  const Function& entry_;
  const Symbols& symbols_;
  Kernel kernel_;
  const Instruction* in_ = nullptr;
  std::vector<bool> taken_;
  std::shared_ptr<Instance> instance_;
  std::vector<Fixup> fixups_;
  std::map<std::pair<int, uint64_t>, uint32_t> constants_;
  std::map<Special, uint32_t> specials_;
  std::map<std::string, Place> moduleShared_;
  std::vector<size_t> dynamicConstants_;  // indices of constants that are relative to the dynamic shared memory
  uint32_t dynamicAlign_ = 16;
  uint64_t parametersEnd_ = 0;
  int sm_ = 0;

  uint32_t allocate(int bytesPerLane);
  uint32_t registerAt(int index);
  Type typeOf(int index) const { return instance_->function->registers[size_t(index)].type; }
  Place placeOf(const Operand& o);
  Place placeShared(const Variable& v);
  uint32_t addressConstant(const Place& place, int64_t offset, int bytes);
  void body(const std::shared_ptr<Instance>& instance);
  std::shared_ptr<Instance> instantiate(const Function& f, int depth);
  void link();
  size_t findLabel(const std::string& name) const;
  const Function* findFunction(const std::string& name) const;
  void move(uint32_t to, uint32_t from, int bytes);
};

/** Sets Op::reconverge of every branch: its immediate post-dominator. */
void findReconvergence(std::vector<Op>& code);

// Handlers over lanes: what executes when every lane takes part vectorises; else results are blended in.

template <class D, class F>
inline __attribute__((always_inline)) void lanes(D* __restrict d, uint32_t mask, F f) {
  if (mask == kAll) {
#pragma GCC ivdep
    for (int l = 0; l < kLanes; ++l) d[l] = f(l);
  } else {
    D t[kLanes];
#pragma GCC ivdep
    for (int l = 0; l < kLanes; ++l) t[l] = f(l);
#pragma GCC ivdep
    for (int l = 0; l < kLanes; ++l) d[l] = (mask >> l) & 1 ? t[l] : d[l];
  }
}

template <class D, class A, class F>
void run1(Warp& w, const Op& o, uint32_t m) {
  const A* a = w.reg<A>(o.r[1]);
  lanes(w.reg<D>(o.r[0]), m, [&](int l) { return F{}(a[l]); });
}
template <class D, class A, class B, class F>
void run2(Warp& w, const Op& o, uint32_t m) {
  const A* a = w.reg<A>(o.r[1]);
  const B* b = w.reg<B>(o.r[2]);
  lanes(w.reg<D>(o.r[0]), m, [&](int l) { return F{}(a[l], b[l]); });
}
template <class D, class A, class B, class C, class F>
void run3(Warp& w, const Op& o, uint32_t m) {
  const A* a = w.reg<A>(o.r[1]);
  const B* b = w.reg<B>(o.r[2]);
  const C* c = w.reg<C>(o.r[3]);
  lanes(w.reg<D>(o.r[0]), m, [&](int l) { return F{}(a[l], b[l], c[l]); });
}
template <class D, class A, class F>
constexpr Handler op1(F) {
  return run1<D, A, F>;
}
template <class D, class A, class B, class F>
constexpr Handler op2(F) {
  return run2<D, A, B, F>;
}
template <class D, class A, class B, class C, class F>
constexpr Handler op3(F) {
  return run3<D, A, B, C, F>;
}

/** Calls `f.operator()<T>()` with the C++ type of an integer or bit type. */
template <class F>
Handler byInteger(Type type, F f) {
  switch (type) {
    case Type::U8:
    case Type::B8: return f.template operator()<uint8_t>();
    case Type::S8: return f.template operator()<int8_t>();
    case Type::U16:
    case Type::B16: return f.template operator()<uint16_t>();
    case Type::S16: return f.template operator()<int16_t>();
    case Type::U32:
    case Type::B32: return f.template operator()<uint32_t>();
    case Type::S32: return f.template operator()<int32_t>();
    case Type::U64:
    case Type::B64: return f.template operator()<uint64_t>();
    case Type::S64: return f.template operator()<int64_t>();
    default: return nullptr;
  }
}

}  // namespace vcuda
