#include "lower.h"

#include <algorithm>
#include <cstring>

namespace vcuda {
namespace {

constexpr uint32_t kSharedStart = 1024;  // as in machine.cc: below is reserved
constexpr size_t kMostOperations = 4'000'000;

const LoweringTable& table() {
  static const LoweringTable t = [] {
    LoweringTable t;
    addMoves(t);
    addIntegers(t);
    addFloats(t);
    addCompares(t);
    addConversions(t);
    addMemory(t);
    addAtomics(t);
    addControl(t);
    addWarpOps(t);
    addMatrices(t);
    addAsyncCopies(t);
    addMbarriers(t);
    addWarpgroups(t);
    return t;
  }();
  return t;
}

const std::unordered_map<std::string_view, Special>& specialNames() {
  static const std::unordered_map<std::string_view, Special> names = {
      {"%tid.x", Special::TidX}, {"%tid.y", Special::TidY}, {"%tid.z", Special::TidZ},
      {"%ntid.x", Special::NtidX}, {"%ntid.y", Special::NtidY}, {"%ntid.z", Special::NtidZ},
      {"%ctaid.x", Special::CtaidX}, {"%ctaid.y", Special::CtaidY}, {"%ctaid.z", Special::CtaidZ},
      {"%nctaid.x", Special::NctaidX}, {"%nctaid.y", Special::NctaidY}, {"%nctaid.z", Special::NctaidZ},
      {"%laneid", Special::LaneId}, {"%warpid", Special::WarpId}, {"%nwarpid", Special::NwarpId},
      {"%smid", Special::SmId}, {"%nsmid", Special::NsmId}, {"%gridid", Special::GridId},
      {"%lanemask_eq", Special::LaneMaskEq}, {"%lanemask_le", Special::LaneMaskLe}, {"%lanemask_lt", Special::LaneMaskLt},
      {"%lanemask_ge", Special::LaneMaskGe}, {"%lanemask_gt", Special::LaneMaskGt},
      {"%total_smem_size", Special::TotalSmemSize}, {"%dynamic_smem_size", Special::DynamicSmemSize},
      {"%aggr_smem_size", Special::AggrSmemSize},
      {"%clusterid.x", Special::ClusterIdX}, {"%clusterid.y", Special::ClusterIdY}, {"%clusterid.z", Special::ClusterIdZ},
      {"%nclusterid.x", Special::NclusterIdX}, {"%nclusterid.y", Special::NclusterIdY}, {"%nclusterid.z", Special::NclusterIdZ},
      {"%cluster_ctaid.x", Special::ClusterCtaIdX}, {"%cluster_ctaid.y", Special::ClusterCtaIdY}, {"%cluster_ctaid.z", Special::ClusterCtaIdZ},
      {"%cluster_nctaid.x", Special::ClusterNctaIdX}, {"%cluster_nctaid.y", Special::ClusterNctaIdY}, {"%cluster_nctaid.z", Special::ClusterNctaIdZ},
      {"%cluster_ctarank", Special::ClusterCtaRank}, {"%cluster_nctarank", Special::ClusterNctaRank},
      {"%is_explicit_cluster", Special::IsExplicitCluster},
      {"%clock", Special::Clock}, {"%clock_hi", Special::ClockHi}, {"%clock64", Special::Clock64},
      {"%globaltimer", Special::GlobalTimer}, {"%globaltimer_lo", Special::GlobalTimerLo}, {"%globaltimer_hi", Special::GlobalTimerHi},
  };
  return names;
}

uint64_t alignUp(uint64_t value, uint64_t align) { return (value + align - 1) / align * align; }

}  // namespace

Assembler::Assembler(std::shared_ptr<const Module> module, const Function& entry, const Symbols& symbols)
    : module_(std::move(module)), entry_(entry), symbols_(symbols) {
  sm_ = std::atoi(module_->target.c_str() + 3);
}

void Assembler::fail(const std::string& message) const {
  if (!in_) throw PtxError(entry_.line, message);
  throw PtxError(in_->line, message + ": `" + std::string(in_->text) + "`");
}

bool Assembler::take(std::string_view modifier) {
  for (size_t i = 0; i < taken_.size(); ++i)
    if (!taken_[i] && in_->modifiers[i] == modifier) {
      taken_[i] = true;
      return true;
    }
  return false;
}

bool Assembler::takePrefix(std::string_view prefix, std::string* whole) {
  for (size_t i = 0; i < taken_.size(); ++i)
    if (!taken_[i] && in_->modifiers[i].rfind(prefix, 0) == 0) {
      taken_[i] = true;
      if (whole) *whole = in_->modifiers[i];
      return true;
    }
  return false;
}

Type Assembler::takeType() {
  for (size_t i = 0; i < taken_.size(); ++i) {
    if (taken_[i]) continue;
    const Type type = typeNamed(in_->modifiers[i]);
    if (type == Type::None) continue;
    taken_[i] = true;
    return type;
  }
  fail("the instruction names no type");
}

int Assembler::takeOne(std::initializer_list<std::string_view> options) {
  int i = 0;
  for (const std::string_view option : options) {
    if (take(option)) return i;
    ++i;
  }
  return -1;
}

Round Assembler::takeRound(Round otherwise) {
  switch (takeOne({"rn", "rz", "rm", "rp"})) {
    case 0: return Round::Nearest;
    case 1: return Round::Zero;
    case 2: return Round::Down;
    case 3: return Round::Up;
    default: return otherwise;
  }
}

bool Assembler::takeVector(int& count) {
  const int which = takeOne({"v2", "v4", "v8"});
  count = which < 0 ? 1 : 2 << which;
  return which >= 0;
}

void Assembler::require(int sm, int version, bool archSpecific) const {
  if (sm_ < sm) fail("needs .target sm_" + std::to_string(sm) + " or higher, the module has " + module_->target);
  if (module_->version < version)
    fail("needs PTX ISA " + std::to_string(version / 10) + "." + std::to_string(version % 10) + ", the module has " +
         std::to_string(module_->version / 10) + "." + std::to_string(module_->version % 10));
  if (archSpecific && module_->target != "sm_" + std::to_string(sm) + "a")
    fail("needs .target sm_" + std::to_string(sm) + "a, the module has " + module_->target);
}

void Assembler::expectOperands(size_t from, size_t to) const {
  if (count() < from || count() > to)
    fail("found " + std::to_string(count()) + " operands, expected " + std::to_string(from) +
         (to == from ? "" : " to " + std::to_string(to)));
}

const Operand& Assembler::operand(size_t i) const {
  if (i >= in_->operands.size()) fail("an operand is missing");
  return in_->operands[i];
}

uint32_t Assembler::allocate(int bytesPerLane) {
  const uint32_t at = kernel_.frameBytes;
  kernel_.frameBytes += uint32_t(alignUp(uint64_t(bytesPerLane) * kLanes, 64));
  return at;
}

uint32_t Assembler::registerAt(int index) {
  uint32_t& at = instance_->registers[size_t(index)];
  if (at == kNone) {
    const Type type = typeOf(index);
    at = type == Type::Pred ? scratchPredicate() : allocate(bytesOf(type));
    kernel_.registersPerThread += type == Type::Pred ? 0 : std::max(1, bytesOf(type) / 4);
  }
  return at;
}

uint32_t Assembler::scratch(int bytesPerLane) { return allocate(bytesPerLane); }

uint32_t Assembler::scratchPredicate() {
  const uint32_t at = kernel_.frameBytes;
  kernel_.frameBytes += 64;
  return at;
}

Extra& Assembler::extra() { return kernel_.extras.emplace_back(); }

uint32_t Assembler::constant(uint64_t value, int bytes) {
  if (bytes < 8) value &= (uint64_t(1) << (8 * bytes)) - 1;
  auto [it, added] = constants_.try_emplace({bytes, value}, 0);
  if (added) {
    it->second = allocate(bytes);
    kernel_.constants.push_back({it->second, uint32_t(bytes), value, false});
  }
  return it->second;
}

uint32_t Assembler::constantPredicate(bool value) {
  auto [it, added] = constants_.try_emplace({0, value}, 0);
  if (added) {
    it->second = scratchPredicate();
    kernel_.constants.push_back({it->second, 4, value, true});
  }
  return it->second;
}

std::optional<Type> Assembler::registerType(const Operand& o) const {
  if (o.kind != Operand::Kind::Register) return std::nullopt;
  return typeOf(o.index);
}

std::optional<Special> Assembler::special(const Operand& o) const {
  if (o.kind != Operand::Kind::Special) return std::nullopt;
  const auto it = specialNames().find(o.name);
  if (it == specialNames().end()) fail("the special register " + o.name + " is not known to this device (or the register is not declared)");
  return it->second;
}

uint32_t Assembler::specialRegister(Special special) {
  auto [it, added] = specials_.try_emplace(special, 0);
  if (added) {
    it->second = allocate(special == Special::GridId ? 8 : 4);
    kernel_.specials.emplace_back(special, it->second);
  }
  return it->second;
}

Assembler::Place Assembler::placeShared(const Variable& v) {
  if (v.bytes == 0) {
    kernel_.dynamicSharedAlign = std::max(kernel_.dynamicSharedAlign, v.align);
    return {Space::Shared, ~uint64_t(0), true};
  }
  const uint64_t at = alignUp(kSharedStart + kernel_.staticShared, v.align);
  kernel_.staticShared = uint32_t(at + v.bytes - kSharedStart);
  return {Space::Shared, at, true};
}

Assembler::Place Assembler::placeOf(const Operand& o) {
  if (o.kind == Operand::Kind::Variable) {
    Place& place = instance_->variables[size_t(o.index)];
    if (!place.assigned) {
      const Variable& v = instance_->function->variables[size_t(o.index)];
      if (v.space == Space::Shared) {
        place = placeShared(v);
      } else if (v.space == Space::Local || v.space == Space::Param) {
        const uint64_t at = alignUp(kernel_.localBytes, std::max(v.align, 1u));
        kernel_.localBytes = uint32_t(alignUp(at + v.bytes, 16));
        place = {v.space, at, true};
      } else {
        fail("." + std::string("global and .const variables inside functions are not known to this device"));
      }
    }
    return place;
  }
  const auto global = symbols_.find(o.name);
  if (global != symbols_.end()) return {Space::Global, global->second, true};
  for (const Variable& v : module_->variables)
    if (v.name == o.name) {
      if (v.space != Space::Shared) fail("the variable " + o.name + " has no address here");
      auto [it, added] = moduleShared_.try_emplace(o.name, Place{});
      if (added) it->second = placeShared(v);
      return it->second;
    }
  fail("'" + o.name + "' is not declared");
}

uint32_t Assembler::addressConstant(const Place& place, int64_t offset, int bytes) {
  if (place.address == ~uint64_t(0)) {
    const uint32_t at = allocate(bytes);
    dynamicConstants_.push_back(kernel_.constants.size());
    kernel_.constants.push_back({at, uint32_t(bytes), uint64_t(offset), false});
    return at;
  }
  return constant(place.address + uint64_t(offset), bytes);
}

uint32_t Assembler::source(const Operand& o, Type type) {
  using Kind = Operand::Kind;
  const int bytes = bytesOf(type);
  switch (o.kind) {
    case Kind::Register: {
      const Type actual = typeOf(o.index);
      if (o.negated) fail("only predicates are negated by '!'");
      if (actual == Type::Pred) fail("the predicate " + o.name + " stands where ." + nameOf(type) + " is expected");
      if (bytesOf(actual) != bytes) fail("the register " + o.name + " is ." + nameOf(actual) + ", expected " + std::to_string(bytes * 8) + " bits (." + nameOf(type) + ")");
      if (o.offset) fail("a register with an offset is not a value");
      return registerAt(o.index);
    }
    case Kind::Integer:
      if (isFloat(type) && type != Type::TF32) fail("an integer constant stands where ." + std::string(nameOf(type)) + " is expected");
      return constant(o.bits, bytes);
    case Kind::Single:
      if (bytes != 4) fail("a 0f constant stands where ." + std::string(nameOf(type)) + " is expected");
      return constant(o.bits, 4);
    case Kind::Double:
      if (type == Type::F32) return constant(bitsOf(float(asDouble(o.bits))), 4);
      if (bytes != 8) fail("a floating constant stands where ." + std::string(nameOf(type)) + " is expected");
      return constant(o.bits, 8);
    case Kind::Special: {
      const Special s = *special(o);
      if (s >= Special::Clock) fail("the special register " + o.name + " is read by mov");
      if (bytes != (s == Special::GridId ? 8 : 4)) fail("the special register " + o.name + " has another width than ." + nameOf(type));
      return specialRegister(s);
    }
    case Kind::Symbol:
    case Kind::Variable: return addressConstant(placeOf(o), o.offset, bytes);
    case Kind::Address: fail("an address stands where a value is expected");
    case Kind::Vector: fail("a vector stands where a single value is expected");
    case Kind::Sink: fail("'_' stands where a value is expected");
  }
  fail("unknown operand");
}

uint32_t Assembler::destination(const Operand& o, Type type) {
  if (o.kind == Operand::Kind::Sink) return scratch(std::max(1, bytesOf(type)));
  if (o.kind != Operand::Kind::Register) fail("the destination is not a register");
  return source(o, type);
}

uint32_t Assembler::wideSource(const Operand& o, Type type, int& bytes) {
  if (o.kind == Operand::Kind::Register) {
    const Type actual = typeOf(o.index);
    if (actual == Type::Pred || bytesOf(actual) < bytesOf(type)) fail("the register " + o.name + " is ." + nameOf(actual) + ", narrower than ." + nameOf(type));
    bytes = bytesOf(actual);
    return registerAt(o.index);
  }
  bytes = bytesOf(type);
  return source(o, type);
}

uint32_t Assembler::wideDestination(const Operand& o, Type type, int& bytes) {
  bytes = bytesOf(type);
  if (o.kind == Operand::Kind::Sink) return scratch(bytes);
  if (o.kind != Operand::Kind::Register) fail("the destination is not a register");
  return wideSource(o, type, bytes);
}

uint32_t Assembler::predicate(const Operand& o, bool* negated) {
  if (o.kind == Operand::Kind::Integer && !negated) return constantPredicate(o.bits != 0);
  if (o.kind == Operand::Kind::Integer) {
    *negated = false;
    return constantPredicate(o.bits != 0);
  }
  if (o.kind != Operand::Kind::Register || typeOf(o.index) != Type::Pred) fail("expected a predicate register");
  if (negated) *negated = o.negated;
  else if (o.negated) fail("a negated predicate is not allowed here");
  return registerAt(o.index);
}

uint32_t Assembler::predicateDestination(const Operand& o) {
  if (o.kind == Operand::Kind::Sink) return scratchPredicate();
  if (o.negated) fail("a destination is not negated");
  return predicate(o);
}

Address Assembler::address(const Operand& o) {
  if (o.kind != Operand::Kind::Address) fail("expected an address in brackets");
  const Operand& base = o.items[0];
  switch (base.kind) {
    case Operand::Kind::Register: {
      const Type type = typeOf(base.index);
      const int bytes = bytesOf(type);
      if (type == Type::Pred || (bytes != 4 && bytes != 8) || isFloat(type)) fail("the register " + base.name + " of type ." + nameOf(type) + " is no address");
      return {Space::Generic, registerAt(base.index), bytes, o.offset};
    }
    case Operand::Kind::Integer: return {Space::Generic, constant(0, 8), 8, o.offset};
    case Operand::Kind::Symbol:
    case Operand::Kind::Variable: {
      const Place place = placeOf(base);
      return {place.space, addressConstant(place, 0, 8), 8, o.offset};
    }
    default: fail("this is no address");
  }
}

Address Assembler::address(size_t i) { return address(operand(i)); }

int64_t Assembler::immediate(const Operand& o) {
  if (o.kind != Operand::Kind::Integer) fail("expected an integer constant");
  return int64_t(o.bits);
}

Op& Assembler::emit(Handler handler, std::initializer_list<uint32_t> registers) {
  if (kernel_.code.size() > kMostOperations) fail("the kernel is too long for this device");
  Op& op = kernel_.code.emplace_back();
  op.run = handler;
  size_t i = 0;
  for (const uint32_t r : registers) op.r[i++] = r;
  if (in_->guard >= 0) {
    op.guard = registerAt(in_->guard);
    op.guardNegated = in_->guardNegated;
  }
  op.source = uint32_t(kernel_.sources.size()) - 1;
  return op;
}

size_t Assembler::findLabel(const std::string& name) const {
  const Function& f = *instance_->function;
  for (int scope = in_->scope; scope >= 0; scope = f.scopeParents[size_t(scope)])
    for (size_t i = 0; i < f.labels.size(); ++i)
      if (f.labels[i].scope == scope && f.labels[i].name == name) return i;
  fail("the label " + name + " is not defined");
}

void Assembler::branch(const std::string& label) {
  const size_t index = findLabel(label);
  const Function& f = *instance_->function;
  // A branch to a lone ret is an exit: lanes that are done do not hold up a barrier.
  const size_t at = f.labels[index].at;
  if (f.entry && (at >= f.body.size() || ((f.body[at].opcode == "ret" || f.body[at].opcode == "exit") && f.body[at].guard < 0)))
    return leave(true);
  emit(nullptr).flow = Flow::Branch;
  fixups_.push_back({kernel_.code.size() - 1, -1, instance_, index});
}

void Assembler::indexed(const std::string& name, uint32_t index) {
  const Function& f = *instance_->function;
  const std::vector<std::string>* targets = nullptr;
  for (int scope = in_->scope; scope >= 0 && !targets; scope = f.scopeParents[size_t(scope)]) {
    const auto it = f.branchTargets.find({scope, name});
    if (it != f.branchTargets.end()) targets = &it->second;
  }
  if (!targets) fail("the .branchtargets " + name + " are not defined");
  Extra& x = extra();
  x.values.resize(targets->size());
  Op& op = emit(nullptr, {kNone, index});
  op.flow = Flow::Indexed;
  op.extra = &x;
  for (size_t i = 0; i < targets->size(); ++i) fixups_.push_back({kernel_.code.size() - 1, int64_t(i), instance_, findLabel((*targets)[i])});
}

void Assembler::leave(bool wholeThread) {
  Op& op = emit(nullptr);
  if (wholeThread || instance_->depth == 0) {
    op.flow = Flow::Exit;
    return;
  }
  op.flow = Flow::Branch;
  fixups_.push_back({kernel_.code.size() - 1, -1, instance_, kEnd});
}

void Assembler::move(uint32_t to, uint32_t from, int bytes) {
  const auto copy = []<class T>() -> Handler { return op1<T, T>([](T x) { return x; }); };
  emit(byInteger(bytes == 1 ? Type::B8 : bytes == 2 ? Type::B16 : bytes == 4 ? Type::B32 : Type::B64, copy), {to, from});
}

const Function* Assembler::findFunction(const std::string& name) const {
  for (const Function& f : module_->functions)
    if (f.name == name && !f.entry) return &f;
  return nullptr;
}

std::shared_ptr<Assembler::Instance> Assembler::instantiate(const Function& f, int depth) {
  auto instance = std::make_shared<Instance>();
  instance->function = &f;
  instance->registers.assign(f.registers.size(), kNone);
  instance->variables.resize(f.variables.size());
  instance->labels.assign(f.labels.size(), 0);
  instance->depth = depth;
  return instance;
}

void Assembler::call() {
  if (in_->operands.size() != 1 || in_->operands[0].kind != Operand::Kind::Symbol) fail("indirect calls are not known to this device");
  const Function* f = findFunction(in_->operands[0].name);
  if (!f) fail("the function " + in_->operands[0].name + " is not declared");
  if (!f->defined) fail("the function " + f->name + " has no body in this module");
  if (instance_->depth >= 32) fail("calls nest deeper than 32: recursion is not known to this device");
  if (in_->arguments.size() != f->parameters.size() || in_->results.size() != f->returns.size())
    fail("the call does not match the parameters of " + f->name);
  const std::shared_ptr<Instance> caller = instance_;
  const std::shared_ptr<Instance> callee = instantiate(*f, caller->depth + 1);
  // A guarded call is a branch around the inlined body.
  size_t around = kEnd;
  if (in_->guard >= 0) {
    Op& skip = emit(nullptr);
    skip.flow = Flow::Branch;
    skip.guardNegated = !skip.guardNegated;
    around = kernel_.code.size() - 1;
  }
  const auto bind = [&](const Operand& actual, const Function::Parameter& formal, bool result) {
    if (formal.isRegister) {
      const Type type = f->registers[size_t(formal.index)].type;
      if (result) return;  // copied back behind the body
      const uint32_t from = type == Type::Pred ? predicate(actual) : source(actual, type);
      instance_ = callee;
      const uint32_t to = registerAt(formal.index);
      instance_ = caller;
      if (type == Type::Pred) fail("predicate parameters are not known to this device");
      move(to, from, bytesOf(type));
      return;
    }
    if (actual.kind != Operand::Kind::Variable) fail("a .param of " + f->name + " is given something that is no .param variable");
    const Variable& v = f->variables[size_t(formal.index)];
    const Variable& given = caller->function->variables[size_t(actual.index)];
    if (given.bytes < v.bytes) fail("the parameter " + v.name + " of " + f->name + " is larger than the argument " + given.name);
    callee->variables[size_t(formal.index)] = placeOf(actual);
  };
  for (size_t i = 0; i < f->parameters.size(); ++i) bind(in_->arguments[i], f->parameters[i], false);
  for (size_t i = 0; i < f->returns.size(); ++i) bind(in_->results[i], f->returns[i], true);
  const Instruction* const site = in_;
  const size_t sourceCount = kernel_.sources.size();
  body(callee);
  in_ = site;
  instance_ = caller;
  (void)sourceCount;
  kernel_.sources.push_back({in_->line, std::string(in_->text)});
  for (size_t i = 0; i < f->returns.size(); ++i) {
    if (!f->returns[i].isRegister) continue;
    const Type type = f->registers[size_t(f->returns[i].index)].type;
    const uint32_t to = destination(in_->results[i], type);
    instance_ = callee;
    const uint32_t from = registerAt(f->returns[i].index);
    instance_ = caller;
    move(to, from, bytesOf(type));
  }
  if (around != kEnd) kernel_.code[around].target = uint32_t(kernel_.code.size());
}

void Assembler::body(const std::shared_ptr<Instance>& instance) {
  const Function& f = *instance->function;
  instance_ = instance;
  size_t label = 0;
  std::vector<size_t> order(f.labels.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return f.labels[a].at < f.labels[b].at; });
  for (size_t i = 0; i <= f.body.size(); ++i) {
    while (label < order.size() && f.labels[order[label]].at == i) instance->labels[order[label++]] = kernel_.code.size();
    if (i == f.body.size()) break;
    in_ = &f.body[i];
    instance_ = instance;
    kernel_.sources.push_back({in_->line, std::string(in_->text)});
    taken_.assign(in_->modifiers.size(), false);
    const auto it = table().find(in_->opcode);
    if (it == table().end()) fail("the instruction '" + in_->opcode + "' is not known to this device");
    it->second(*this);
    if (in_->opcode == "call") continue;
    for (size_t k = 0; k < taken_.size(); ++k)
      if (!taken_[k]) fail("the modifier ." + in_->modifiers[k] + " is not known to this device for " + in_->opcode);
  }
  for (Fixup& fixup : fixups_)
    if (fixup.instance == instance && fixup.label == kEnd) kernel_.code[fixup.op].target = uint32_t(kernel_.code.size());
}

Kernel Assembler::assemble() {
  kernel_.name = entry_.name;
  kernel_.module = module_;
  const std::shared_ptr<Instance> instance = instantiate(entry_, 0);
  uint64_t at = 0;
  for (const Function::Parameter& p : entry_.parameters) {
    if (p.isRegister) fail("a kernel parameter is .param");
    const Variable& v = entry_.variables[size_t(p.index)];
    at = alignUp(at, v.align);
    instance->variables[size_t(p.index)] = {Space::Param, at | kParamWindow, true};
    kernel_.parameters.push_back({uint32_t(at), uint32_t(v.bytes), v.align});
    at += v.bytes;
  }
  kernel_.parameterBytes = uint32_t(at);
  if (at > 4352 && module_->version < 81) fail("more than 4352 bytes of parameters");
  std::copy(entry_.requiredThreads, entry_.requiredThreads + 3, kernel_.requiredThreads);
  std::copy(entry_.requiredCluster, entry_.requiredCluster + 3, kernel_.requiredCluster);
  const uint32_t* most = entry_.requiredThreads[0] ? entry_.requiredThreads : entry_.maxThreads;
  kernel_.maxThreads = most[0] ? most[0] * most[1] * most[2] : 1024;
  body(instance);
  in_ = nullptr;
  // Running off the end is the same as ret.
  kernel_.sources.push_back({entry_.line, "(end of " + entry_.name + ")"});
  Op& end = kernel_.code.emplace_back();
  end.flow = Flow::Exit;
  end.source = uint32_t(kernel_.sources.size()) - 1;
  link();
  findReconvergence(kernel_.code);
  kernel_.staticShared = uint32_t(alignUp(kernel_.staticShared, kernel_.dynamicSharedAlign));
  for (const size_t i : dynamicConstants_) kernel_.constants[i].value += kSharedStart + kernel_.staticShared;
  if (dynamicConstants_.empty()) kernel_.staticShared = uint32_t(alignUp(kernel_.staticShared, 16));
  kernel_.localBytes = uint32_t(alignUp(kernel_.localBytes, 16));
  return std::move(kernel_);
}

void Assembler::link() {
  for (const Fixup& fixup : fixups_) {
    if (fixup.label == kEnd) continue;
    const size_t target = fixup.instance->labels[fixup.label];
    Op& op = kernel_.code[fixup.op];
    if (fixup.slot < 0) op.target = uint32_t(target);
    else const_cast<Extra*>(op.extra)->values[size_t(fixup.slot)] = int64_t(target);
  }
}

void findReconvergence(std::vector<Op>& code) {
  // Basic blocks
  const uint32_t n = uint32_t(code.size());
  std::vector<bool> leader(n + 1, false);
  leader[0] = true;
  for (uint32_t i = 0; i < n; ++i) {
    const Op& op = code[i];
    if (op.flow == Flow::Branch) leader[op.target] = leader[i + 1] = true;
    if (op.flow == Flow::Indexed) {
      for (const int64_t t : op.extra->values) leader[size_t(t)] = true;
      leader[i + 1] = true;
    }
    if (op.flow == Flow::Exit) leader[i + 1] = true;
  }
  std::vector<uint32_t> blockOf(n), first;
  for (uint32_t i = 0; i < n; ++i) {
    if (leader[i]) first.push_back(i);
    blockOf[i] = uint32_t(first.size()) - 1;
  }
  const uint32_t count = uint32_t(first.size()), exit = count;
  std::vector<std::vector<uint32_t>> successors(count + 1), predecessors(count + 1);
  const auto edge = [&](uint32_t from, uint32_t to) {
    successors[from].push_back(to);
    predecessors[to].push_back(from);
  };
  for (uint32_t b = 0; b < count; ++b) {
    const uint32_t last = (b + 1 < count ? first[b + 1] : n) - 1;
    const Op& op = code[last];
    const bool falls = op.flow == Flow::Branch || op.flow == Flow::Indexed || op.flow == Flow::Exit ? op.guard != kNone : true;
    if (op.flow == Flow::Branch) edge(b, blockOf[op.target]);
    if (op.flow == Flow::Indexed)
      for (const int64_t t : op.extra->values) edge(b, blockOf[size_t(t)]);
    // A guarded exit is no join of the lanes that go on: only an unguarded one leads to the end.
    if (op.flow == Flow::Exit && !falls) edge(b, exit);
    if (falls && last + 1 < n) edge(b, blockOf[last + 1]);
  }
  // Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm", on the reversed graph.
  std::vector<uint32_t> order;  // postorder from the exit over predecessors
  std::vector<uint32_t> number(count + 1, kNone);
  std::vector<std::pair<uint32_t, size_t>> stack{{exit, 0}};
  std::vector<bool> seen(count + 1, false);
  seen[exit] = true;
  while (!stack.empty()) {
    auto& [b, i] = stack.back();
    if (i < predecessors[b].size()) {
      const uint32_t p = predecessors[b][i++];
      if (!seen[p]) {
        seen[p] = true;
        stack.emplace_back(p, 0);
      }
    } else {
      number[b] = uint32_t(order.size());
      order.push_back(b);
      stack.pop_back();
    }
  }
  std::vector<uint32_t> idom(count + 1, kNone);
  idom[exit] = exit;
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t k = order.size(); k-- > 0;) {
      const uint32_t b = order[k];
      if (b == exit) continue;
      uint32_t best = kNone;
      for (uint32_t s : successors[b]) {
        if (idom[s] == kNone) continue;
        if (best == kNone) {
          best = s;
          continue;
        }
        uint32_t a = best;
        while (a != s) {
          while (number[a] < number[s]) a = idom[a];
          while (number[s] < number[a]) s = idom[s];
        }
        best = a;
      }
      if (best != idom[b]) {
        idom[b] = best;
        changed = true;
      }
    }
  }
  for (uint32_t i = 0; i < n; ++i) {
    if (code[i].flow != Flow::Branch && code[i].flow != Flow::Indexed) continue;
    const uint32_t d = idom[blockOf[i]];
    code[i].reconverge = d == kNone || d == exit ? kNone : first[d];
  }
}

Kernel lowerKernel(std::shared_ptr<const Module> module, const Function& entry, const Symbols& symbols) {
  return Assembler(std::move(module), entry, symbols).assemble();
}

}  // namespace vcuda
