// The queue: the submitter's and the waiter's thread, and a job's way through them.

#include <algorithm>
#include <cstring>

#include "device.h"

namespace tutti::cuda {

namespace {

constexpr size_t kMaxBatchesInFlight = 256;

}  // namespace

uint8_t* Ring::take(uint64_t bytes) {
  const uint64_t at = head_ % kBytes;
  const uint64_t skipped = at + bytes > kBytes ? kBytes - at : 0;
  if (head_ + skipped + bytes - tail_ > kBytes) return nullptr;
  uint8_t* place = memory + (head_ + skipped) % kBytes;
  head_ += skipped + bytes;
  return place;
}

void Core::enqueue(std::shared_ptr<Job> job) {
  std::lock_guard lock(mutex_);
  if (closing_) throw closedError();
  jobs_.push_back(std::move(job));
  changed_.notify_all();
}

void Core::submitterLoop() {
  api->cuCtxSetCurrent(context_);
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
    }
    run(job);
  }
}

void Core::run(const std::shared_ptr<Job>& job) {
  auto batch = std::make_unique<Batch>();
  batch->job = job;
  try {
    {
      std::unique_lock lock(mutex_);
      if (lost_) std::rethrow_exception(lost_);
      changed_.wait(lock, [this] { return inFlight_ < kMaxBatchesInFlight; });
    }
    if (!job->isAborted()) fill(batch);
    flush(batch, true);
  } catch (...) {
    if (!batch) {
      batch = std::make_unique<Batch>();
      batch->job = job;
    }
    batch->error = std::current_exception();
    batch->last = true;
    push(std::move(batch));
  }
}

/** Puts the job's work into the stream; where pinned memory runs out, `batch` is sent off and a new one begun. */
void Core::fill(std::unique_ptr<Batch>& batch) {
  const std::shared_ptr<Job> job = batch->job;
  if (job->zero != 0) api->check(api->cuMemsetD8Async(job->zero, 0, job->zeroBytes, stream_), "clearing memory");
  for (const Transfer& write : job->writes) {
    for (uint64_t at = 0; at < write.bytes;) {
      const uint64_t bytes = std::min(write.bytes - at, Ring::kLargestPiece);
      uint8_t* pinned = stage(batch, bytes);
      std::memcpy(pinned, write.host + at, bytes);
      api->check(api->cuMemcpyHtoDAsync(write.buffer->pointer + write.offset + at, pinned, bytes, stream_),
                 "writing to the device");
      at += bytes;
    }
  }
  if (job->list) {
    if (job->profile) {
      for (size_t i = 0; i < 2 * job->list->dispatches(); ++i) batch->timed.push_back(takeEvent(true));
      job->list->launchTimed(stream_, batch->timed);
    } else {
      job->list->launch(stream_);
    }
  }
  for (const Transfer& read : job->reads) {
    for (uint64_t at = 0; at < read.bytes;) {
      const uint64_t bytes = std::min(read.bytes - at, Ring::kLargestPiece);
      uint8_t* pinned = stage(batch, bytes);
      api->check(api->cuMemcpyDtoHAsync(pinned, read.buffer->pointer + read.offset + at, bytes, stream_),
                 "reading from the device");
      batch->copies.push_back({read.host + at, pinned, bytes});
      at += bytes;
    }
  }
}

/** Pinned memory; waits for what is in flight if there is none. */
uint8_t* Core::stage(std::unique_ptr<Batch>& batch, uint64_t bytes) {
  {
    std::lock_guard lock(mutex_);
    if (uint8_t* place = ring_.take(bytes)) {
      batch->staged = true;
      return place;
    }
  }
  const std::shared_ptr<Job> job = batch->job;
  if (batch->staged) {
    flush(batch, false);
    batch = std::make_unique<Batch>();
    batch->job = job;
  }
  std::unique_lock lock(mutex_);
  uint8_t* place = nullptr;
  changed_.wait(lock, [&] { return (place = ring_.take(bytes)) != nullptr; });
  batch->staged = true;
  return place;
}

void Core::flush(std::unique_ptr<Batch>& batch, bool last) {
  batch->last = last;
  batch->event = takeEvent(false);
  if (const CUresult result = api->cuEventRecord(batch->event, stream_); result != kSuccess) {
    giveBackEvent(batch->event, false);
    batch->event = nullptr;
    api->fail(result, "recording an event");
  }
  push(std::move(batch));
}

void Core::push(std::unique_ptr<Batch> batch) {
  std::lock_guard lock(mutex_);
  ++inFlight_;
  batch->ringEnd = ring_.head();
  batches_.push_back(std::move(batch));
  changed_.notify_all();
}

CUevent Core::takeEvent(bool timed) {
  {
    std::lock_guard lock(mutex_);
    auto& free = timed ? timedEvents_ : events_;
    if (!free.empty()) {
      CUevent event = free.back();
      free.pop_back();
      return event;
    }
  }
  CUevent event = nullptr;
  // A blocking event lets the waiting thread sleep.
  api->check(api->cuEventCreate(&event, timed ? 0 : kEventBlockingSync | kEventDisableTiming), "creating an event");
  return event;
}

void Core::giveBackEvent(CUevent event, bool timed) {
  std::lock_guard lock(mutex_);
  (timed ? timedEvents_ : events_).push_back(event);
}

void Core::waiterLoop() {
  api->cuCtxSetCurrent(context_);
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
  destroyAll();
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
void Core::finish(Batch& batch) {
  Job& job = *batch.job;
  if (batch.error && !job.error) job.error = batch.error;
  try {
    if (batch.event != nullptr) {
      api->check(api->cuEventSynchronize(batch.event), "running on the device");
    } else {
      // Something failed on the way: the device must still be done with pinned memory before it is used again.
      api->check(api->cuStreamSynchronize(stream_), "running on the device");
    }
    if (!job.error && !job.isAborted()) {
      for (const HostCopy& copy : batch.copies) std::memcpy(copy.to, copy.from, copy.bytes);
      if (job.microseconds) {
        for (size_t i = 0; i + 1 < batch.timed.size(); i += 2) {
          float milliseconds = 0;
          api->check(api->cuEventElapsedTime(&milliseconds, batch.timed[i], batch.timed[i + 1]), "reading times");
          job.microseconds->push_back(1000.0 * milliseconds);
        }
      }
    }
  } catch (const Error& error) {
    if (!job.error) job.error = std::current_exception();
    noteLoss(error);
  }
  if (job.error) {
    try {
      std::rethrow_exception(job.error);
    } catch (const Error& error) {
      noteLoss(error);
    } catch (...) {
    }
  }
  if (batch.last) {
    // Before the promise settles: a caller that closes or frees next must find its resources released.
    job.list.reset();
    job.writes.clear();
    job.reads.clear();
    if (job.release) job.release();
  }
  {
    std::lock_guard lock(mutex_);
    if (batch.event != nullptr) events_.push_back(batch.event);
    timedEvents_.insert(timedEvents_.end(), batch.timed.begin(), batch.timed.end());
    ring_.giveBack(batch.ringEnd);
    --inFlight_;
    if (job.release) --releases_;
    changed_.notify_all();
  }
  if (!batch.last || !job.done) return;
  if (job.error) {
    job.done->reject(job.error);
  } else {
    job.done->resolve();
  }
}

}  // namespace tutti::cuda
