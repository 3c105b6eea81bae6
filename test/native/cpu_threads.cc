// The cpu device's queue and pool under the thread sanitizer: submissions from one thread, in all ways there are, with
// kernels of plain C++. Prints what is wrong and exits with 1.

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "../../native/cpu/device.h"

using namespace tutti::cpu;

namespace {

int failures = 0;
void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("failed: %s\n", what);
  failures++;
}

/** y[i] = x[i] + 1 of 256 numbers a workgroup, with some work on top. */
void addOne(void* const* buffers, const uint32_t* scalars, unsigned char* scratch, const uint32_t*, uint64_t first,
            uint64_t last) {
  const auto* x = static_cast<const uint32_t*>(buffers[0]);
  auto* y = static_cast<uint32_t*>(buffers[1]);
  std::memset(scratch, 1, 256);
  for (uint64_t group = first; group < last; group++)
    for (uint64_t i = group * 256; i < (group + 1) * 256; i++) {
      uint32_t value = x[i];
      for (uint32_t spin = 0; spin < scalars[0]; spin++) value = value * 5 + 1 - value * 4 - 1;
      y[i] = value + scratch[i % 256];
    }
}

constexpr uint32_t kGroups = 64;
constexpr uint64_t kNumbers = 256 * kGroups;
constexpr uint64_t kBytes = kNumbers * 4;
constexpr uint32_t kSteps = 6;

/** x → y by way of kSteps buffers, each one more; `work` is the time that it takes. */
std::shared_ptr<CommandList> chain(Device& device, const Slice& x, const Slice& y, uint32_t work) {
  const auto kernel = std::make_shared<Kernel>();
  kernel->function = addOne;
  kernel->writes = {false, true};
  kernel->scalarBytes = 4;
  kernel->scratchBytes = 256;
  std::vector<Command> commands;
  Slice from = x;
  for (uint32_t step = 0; step < kSteps; step++) {
    const Slice to = step + 1 == kSteps ? y : Slice{device.allocate(kBytes), 0, kBytes};
    Dispatch dispatch;
    dispatch.kernel = kernel;
    dispatch.grid[0] = kGroups;
    dispatch.grid[1] = dispatch.grid[2] = 1;
    dispatch.bindings = {from, to};
    dispatch.scalars = {work};
    commands.emplace_back(std::move(dispatch));
    from = to;
  }
  return std::make_shared<CommandList>(std::move(commands));
}

/** Counts how often each workgroup is run; all but one are short, so that threads help one another. */
void count(void* const* buffers, const uint32_t*, unsigned char*, const uint32_t* grid, uint64_t first, uint64_t last) {
  auto* counts = static_cast<uint32_t*>(buffers[0]);
  for (uint64_t group = first; group < last; group++) {
    volatile uint32_t value = 0;
    for (uint32_t spin = 0; spin < (group == grid[1] ? 20'000 : 500); spin++) value = value + spin;
    counts[group]++;
  }
}

/** Every workgroup is run once, whatever the numbers of workgroups and threads. */
void checkShares() {
  for (const unsigned threads : {1u, 2u, 3u, 5u}) {
    ThreadPool pool(threads);
    pool.expect(1e6);
    for (uint32_t groups : {1u, 2u, 3u, 4u, 7u, 16u, 61u, 1000u}) {
      Cost cost;
      for (uint32_t run = 0; run < 12; run++) {
        std::vector<uint32_t> counts(groups, 0);
        void* buffers[1] = {counts.data()};
        const uint32_t grid[3] = {groups, run % 3 == 0 ? 0 : groups - 1, 1};
        Job job;
        job.kernel = count;
        job.buffers = buffers;
        job.grid = grid;
        job.workgroups = groups;
        expect(pool.run(job, cost), "a job finds memory");
        for (const uint32_t times : counts) expect(times == 1, "a workgroup is run once");
      }
    }
  }
}

}  // namespace

int main() {
  checkShares();
  Device device(4, 1 << 30);
  const Slice x{device.allocate(kBytes), 0, kBytes};
  const Slice y{device.allocate(kBytes), 0, kBytes};
  const auto light = chain(device, x, y, 0), heavy = chain(device, x, y, 40);
  constexpr uint32_t kRuns = 300;
  std::vector<std::vector<uint32_t>> inputs(kRuns), outputs(kRuns);
  std::atomic<uint32_t> done{0};
  std::atomic<bool> ordered{true};
  uint32_t here = 0;
  for (uint32_t run = 0; run < kRuns; run++) {
    inputs[run].assign(kNumbers, run);
    outputs[run].assign(kNumbers, 0);
    Submission work;
    work.list = run % 3 == 0 ? heavy : light;
    const bool passing = run % 2 == 0;
    work.writes.push_back({x, reinterpret_cast<const unsigned char*>(inputs[run].data()), passing});
    work.reads.push_back({y, reinterpret_cast<unsigned char*>(outputs[run].data()), passing});
    if (run % 7 == 0) {
      device.runHere(work);
      here++;
    } else if (run % 5 == 0 && device.runHereIfShort(work)) {
      here++;
    } else {
      const uint32_t before = here;
      work.done = [&done, &ordered, run, before](std::exception_ptr error) {
        if (error || done.fetch_add(1) != run - before) ordered = false;
      };
      device.submit(std::make_shared<Submission>(std::move(work)));
    }
    // At times all threads have gone to sleep.
    if (run % 100 == 99) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  Submission last;
  device.runHere(last);
  for (uint32_t run = 0; run < kRuns; run++) {
    bool right = true;
    for (const uint32_t value : outputs[run]) right = right && value == run + kSteps;
    expect(right, "a run has its own result");
    for (const uint32_t value : inputs[run]) right = right && value == run;
    expect(right, "inputs are as they were");
  }
  std::atomic<bool> drained{false};
  device.drain([&drained] { drained = true; });
  device.shutdown();
  expect(drained, "what was queued is done before the device ends");
  expect(done == kRuns - here, "each submission is answered once");
  expect(ordered, "submissions are answered in their order");
  std::printf("%u of %u runs in the calling thread\n", here, kRuns);
  return failures == 0 ? 0 : 1;
}
