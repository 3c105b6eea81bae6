// The queue of a device: the submitter's and the waiter's thread, and a job's way through them.

#include <cstring>

#include "device.h"

namespace tutti::gpu {

namespace {

constexpr size_t kMaxBatchesInFlight = 64;

}  // namespace

std::optional<uint64_t> Ring::take(uint64_t bytes, uint64_t phase) {
  const uint64_t at = head_ % kBytes;
  uint64_t place = at + (phase % 16 + 16 - at % 16) % 16;
  if (place + bytes > kBytes) place = kBytes + phase % 16;
  const uint64_t head = head_ + (place - at) + bytes;
  if (head - tail_ > kBytes) return std::nullopt;
  head_ = head;
  return place % kBytes;
}

// Submitter ------------------------------------------------------------------------------------------------------

void Device::enqueue(std::shared_ptr<Job> job) {
  std::lock_guard lock(mutex_);
  if (closing_) throw closedError();
  jobs_.push_back(std::move(job));
  changed_.notify_all();
}

void Device::submitterLoop() {
  for (;;) {
    std::shared_ptr<Job> job;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return !jobs_.empty() || closing_; });
      if (jobs_.empty()) {
        submitterDone_ = true;
        changed_.notify_all();
        return;
      }
      job = std::move(jobs_.front());
      jobs_.pop_front();
      ++running_;
    }
    run(job);
  }
}

void Device::run(const std::shared_ptr<Job>& job) {
  Scope scope(*this);
  std::unique_ptr<Batch> batch;
  try {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return inFlight_ < kMaxBatchesInFlight; });
      if (lost_) std::rethrow_exception(lost_);
    }
    batch = begin(job);
    if (!job->isAborted()) fill(batch);
    flush(batch, true);
  } catch (...) {
    if (!batch) batch = begin(job);
    batch->error = std::current_exception();
    batch->last = true;
    push(std::move(batch));
  }
}

std::unique_ptr<Batch> Device::begin(const std::shared_ptr<Job>& job) {
  auto batch = newBatch();
  batch->job = job;
  return batch;
}

void Device::fill(std::unique_ptr<Batch>& batch) {
  // Times belong to one run of a list.
  if (batch->job->profile) waitIdle();
  if (batch->job->clear) batch->job->clear(*batch);
  if (direct_) {
    fillDirect(*batch);
  } else {
    fillStaged(batch);
  }
}

void Device::fillDirect(Batch& batch) {
  Job& job = *batch.job;
  bool wait = !job.writes.empty();
  {
    std::lock_guard lock(mutex_);
    wait = wait || hostReadPending_;
  }
  if (wait) waitIdle();
  for (const Transfer& write : job.writes) std::memcpy(write.buffer->mapped + write.offset, write.host, write.bytes);
  for (const Transfer& read : job.reads)
    batch.copies.push_back({read.host, read.buffer->mapped + read.offset, read.bytes});
  if (job.list) launch(batch, *job.list, job.profile);
}

/** Where the ring runs out, `batch` is sent off and a new one begun. */
void Device::fillStaged(std::unique_ptr<Batch>& batch) {
  const std::shared_ptr<Job> job = batch->job;
  const auto eachPiece = [&](const Transfer& transfer, auto use) {
    for (uint64_t at = 0; at < transfer.bytes;) {
      const uint64_t bytes = std::min(transfer.bytes - at, Ring::kLargestPiece);
      const uint64_t place = stage(batch, bytes, transfer.offset + at);
      use(transfer.host + at, transfer.offset + at, place, bytes);
      at += bytes;
    }
  };
  for (const Transfer& write : job->writes)
    eachPiece(write, [&](uint8_t* host, uint64_t offset, uint64_t place, uint64_t bytes) {
      std::memcpy(ring_.memory + place, host, bytes);
      upload(*batch, place, *write.buffer, offset, bytes);
    });
  if (job->list) launch(*batch, *job->list, job->profile);
  for (const Transfer& read : job->reads)
    eachPiece(read, [&](uint8_t* host, uint64_t offset, uint64_t place, uint64_t bytes) {
      download(*batch, *read.buffer, offset, place, bytes);
      batch->copies.push_back({host, ring_.memory + place, bytes});
    });
}

/** A place in the ring; waits for what is in flight if there is none. */
uint64_t Device::stage(std::unique_ptr<Batch>& batch, uint64_t bytes, uint64_t phase) {
  if (ring_.memory == nullptr) ring_.memory = newRing(Ring::kBytes);
  std::optional<uint64_t> place;
  {
    std::lock_guard lock(mutex_);
    place = ring_.take(bytes, phase);
  }
  if (!place) {
    if (batch->staged) {
      const std::shared_ptr<Job> job = batch->job;
      flush(batch, false);
      batch = begin(job);
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return (place = ring_.take(bytes, phase)).has_value(); });
  }
  batch->staged = true;
  return *place;
}

void Device::flush(std::unique_ptr<Batch>& batch, bool last) {
  batch->last = last;
  submit(*batch);
  push(std::move(batch));
}

void Device::push(std::unique_ptr<Batch> batch) {
  std::lock_guard lock(mutex_);
  ++inFlight_;
  if (batch->last) --running_;
  // What is read directly must stay as it is until the waiter has fetched it.
  if (direct_ && !batch->copies.empty()) hostReadPending_ = true;
  batch->ringEnd = ring_.head();
  batches_.push_back(std::move(batch));
  changed_.notify_all();
}

void Device::waitIdle() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return inFlight_ == 0; });
  if (lost_) std::rethrow_exception(lost_);
}

// Waiter ---------------------------------------------------------------------------------------------------------

void Device::waiterLoop() {
  for (;;) {
    std::unique_ptr<Batch> batch;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return !batches_.empty() || submitterDone_; });
      if (batches_.empty()) break;
      batch = std::move(batches_.front());
      batches_.pop_front();
    }
    finish(*batch);
  }
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return users_ == 0; });
  }
  end();
  std::vector<std::shared_ptr<Completion>> closers;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    closers.swap(closers_);
    changed_.notify_all();
  }
  for (const auto& closer : closers) closer->resolve();
}

/** Waits for a batch, moves its data out, gives back what it held and settles its job if it was the last. */
void Device::finish(Batch& batch) {
  Scope scope(*this);
  Job& job = *batch.job;
  if (batch.error && !job.error) job.error = batch.error;
  try {
    wait(batch);
    if (!job.error && !job.isAborted()) {
      for (const HostCopy& copy : batch.copies) std::memcpy(copy.to, copy.from, copy.bytes);
      if (batch.timed) readTimes(batch, *job.microseconds);
    }
  } catch (...) {
    if (!job.error) job.error = std::current_exception();
    noteLoss(std::current_exception());
  }
  noteLoss(job.error);
  if (batch.last) {
    // Before the promise settles: a caller that closes or frees next must find its resources released.
    job.list.reset();
    job.writes.clear();
    job.reads.clear();
    if (job.release) job.release();
  }
  recycle(batch);
  {
    std::lock_guard lock(mutex_);
    ring_.giveBack(batch.ringEnd);
    if (--inFlight_ == 0) hostReadPending_ = false;
    changed_.notify_all();
  }
  if (!batch.last || !job.done) return;
  if (job.error) {
    job.done->reject(job.error);
  } else {
    job.done->resolve();
  }
}

}  // namespace tutti::gpu
