// Branches, calls, the end of threads, barriers, and instructions that only make time pass.
#include "barrier.h"
#include "lower.h"

namespace vcuda {
namespace {

void nothing(Assembler&) {}

void lowerBra(Assembler& a) {
  a.take("uni");
  a.expectOperands(1);
  if (a.operand(0).kind != Operand::Kind::Symbol) a.fail("bra names a label");
  a.branch(a.operand(0).name);
}

void lowerBrx(Assembler& a) {
  if (!a.take("idx")) a.fail("brx is .idx");
  a.take("uni");
  a.expectOperands(2);
  a.indexed(a.operand(1).name, a.source(0, Type::U32));
}

void lowerTrap(Assembler& a) {
  a.expectOperands(0);
  a.emit([](Warp& w, const Op& o, uint32_t m) { fault(w, o, __builtin_ctz(m), kLaunchFailed, "trap"); });
}

void lowerNanosleep(Assembler& a) {
  if (a.takeType() != Type::U32) a.fail("nanosleep is .u32");
  a.expectOperands(1);
  a.source(0, Type::U32);
  // Gives way to the other warps, as the sleeping thread would.
  a.emit([](Warp& w, const Op&, uint32_t) { w.budget = 0; });
}

void barrier(Assembler& a, bool isBarrier) {
  bool aligned = !isBarrier;
  a.take("cta");
  if (a.take("cluster")) {
    a.require(90, 78);
    const int kind = a.takeOne({"arrive", "wait"});
    if (kind < 0) a.fail("barrier.cluster is .arrive or .wait");
    a.takeOne({"release", "relaxed", "acquire"});
    a.take("aligned");
    a.expectOperands(0);
    a.kernel().usesClusters = true;
    Op& op = a.emit(nullptr);
    op.flow = Flow::Cluster;
    op.imm = kind == 0 ? kClusterArrive : kClusterWait;
    return;
  }
  if (a.take("warp")) {
    if (!a.take("sync")) a.fail("bar.warp is .sync");
    a.expectOperands(1);
    Op& op = a.emit([](Warp&, const Op&, uint32_t) {});
    op.flow = Flow::Warp;
    op.r[5] = a.source(0, Type::B32);
    return;
  }
  const int kind = a.takeOne({"sync", "arrive", "red"});
  if (kind < 0) a.fail("the barrier is .sync, .arrive, .red or .warp.sync");
  aligned |= a.take("aligned");
  int64_t what = kind == 0 ? kBarSync : kBarArrive;
  uint32_t d = kNone, id, count = kNone, p = kNone;
  if (kind == 2) {
    const int operation = a.takeOne({"popc", "and", "or"});
    if (operation < 0) a.fail("bar.red is .popc, .and or .or");
    const Type t = a.takeType();
    if ((operation == 0) != (t == Type::U32) || (operation && t != Type::Pred)) a.fail("bar.red is .popc.u32, .and.pred or .or.pred");
    a.expectOperands(3, 4);
    bool negated = false;
    p = a.predicate(a.count() - 1, &negated);
    d = operation == 0 ? a.destination(0, Type::U32) : a.predicateDestination(0);
    id = a.source(1, Type::U32);
    if (a.count() == 4) count = a.source(2, Type::U32);
    what = (negated ? kBarPopcNegated : kBarPopc) + operation;
  } else {
    a.expectOperands(kind == 1 ? 2 : 1, 2);
    id = a.source(0, Type::U32);
    if (a.count() == 2) count = a.source(1, Type::U32);
  }
  Op& op = a.emit(nullptr, {d, id, count, p});
  op.flow = Flow::Barrier;
  op.imm = what;
  op.imm2 = aligned;
}

void lowerSetmaxnreg(Assembler& a) {
  a.require(90, 80, true);
  if (a.takeOne({"inc", "dec"}) < 0 || !a.take("sync") || !a.take("aligned") || a.takeType() != Type::U32) a.fail("setmaxnreg is .inc or .dec, .sync.aligned.u32");
  a.expectOperands(1);
  const int64_t n = a.immediate(0);
  if (n < 24 || n > 256 || n % 8) a.fail("setmaxnreg is of 24 to 256 registers in steps of 8");
}

void lowerGriddep(Assembler& a) {
  a.require(90, 78);
  if (a.takeOne({"launch_dependents", "wait"}) < 0) a.fail("griddepcontrol is .launch_dependents or .wait");
}

}  // namespace

void addControl(LoweringTable& t) {
  t["bra"] = lowerBra;
  t["brx"] = lowerBrx;
  t["call"] = [](Assembler& a) { a.call(); };
  t["ret"] = [](Assembler& a) { a.take("uni"); a.expectOperands(0); a.leave(false); };
  t["exit"] = [](Assembler& a) { a.expectOperands(0); a.leave(true); };
  t["trap"] = lowerTrap;
  t["brkpt"] = lowerTrap;
  t["nanosleep"] = lowerNanosleep;
  t["bar"] = [](Assembler& a) { barrier(a, false); };
  t["barrier"] = [](Assembler& a) { barrier(a, true); };
  t["setmaxnreg"] = lowerSetmaxnreg;
  t["griddepcontrol"] = lowerGriddep;
  t["pmevent"] = [](Assembler& a) { a.take("mask"); nothing(a); };
}

}  // namespace vcuda
