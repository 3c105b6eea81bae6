// Asynchronous copies and the mbarrier objects that they report to.
#pragma once

#include "access.h"

namespace vcuda {

/** Writes the copies of the lanes in `mask` whose group is older than `keep` groups; -1: all, committed or not. */
void finishCopies(Warp& w, uint32_t mask, int64_t keep);

/** cp.async and its groups, commit and wait: the instruction's second modifier decides. */
void lowerCpAsync(Assembler&);
/** cp.async.bulk and cp.async.bulk.tensor. */
void lowerCpAsyncBulk(Assembler&);

/** The host memory of the mbarrier object at a shared address; checks that it has been initialised. */
uint8_t* mbarrierAt(Warp& w, const Op& op, int lane, Space space, uint64_t address);
/** One arrival of `count`; `transactions` bytes are expected first. Returns the state before. */
uint64_t mbarrierArrive(Warp& w, const Op& op, int lane, uint8_t* object, uint32_t count, int64_t transactions, bool drop);
/** `bytes` of the expected transactions have happened. */
void mbarrierComplete(uint8_t* object, int64_t bytes);
/** cp.async.mbarrier.arrive: the pending count grows by one unless .noinc. */
void mbarrierExpectArrival(uint8_t* object);

}  // namespace vcuda
