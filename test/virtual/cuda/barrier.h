// CTA barriers (bar, barrier) and the cluster barrier.
#pragma once

#include "program.h"

namespace vcuda {

/** How a barrier operation takes part: Op::imm. Op::imm2 is 1 for .aligned. r: result, barrier, count, predicate. */
enum BarrierKind : int64_t { kBarSync, kBarArrive, kBarPopc, kBarAnd, kBarOr, kBarPopcNegated, kBarAndNegated, kBarOrNegated };

/** The lanes of `group`, whose splits wait at `pc`, arrive; releases the barrier if they were the last. */
void barrierArrive(Warp& w, const Op& op, uint32_t pc, uint32_t group);
/** Lanes have exited: barriers that waited for all threads may be complete. */
void barrierCheckAll(Block& block);

enum ClusterBarrierKind : int64_t { kClusterArrive, kClusterWait };
/** False when the lanes have to wait. */
bool clusterBarrier(Warp& w, const Op& op, uint32_t mask);
void clusterBarrierCheck(Cluster& cluster);

}  // namespace vcuda
