// Streams (a host thread each, in order), events, launches, host functions, and the capture of a stream to a graph.
//
// The legacy stream (handle 0) waits for all blocking streams and they wait for it, as CUDA's does.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "driver.h"

namespace vcuda {

void Completion::signal() {
  std::lock_guard lock(mutex_);
  done_ = true;
  changed_.notify_all();
}
void Completion::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return done_; });
}
bool Completion::done() const {
  std::lock_guard lock(mutex_);
  return done_;
}

void Stream::push(std::function<void()> run, std::vector<Pending> waits, Pending done) {
  std::lock_guard lock(mutex_);
  tasks_.push_back({std::move(run), std::move(waits), std::move(done)});
  if (!started_) {
    started_ = true;
    std::thread([self = shared_from_this()] { self->loop(); }).detach();
  }
  changed_.notify_one();
}

void Stream::close() {
  std::lock_guard lock(mutex_);
  closing_ = true;
  changed_.notify_one();
}

void Stream::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return !tasks_.empty() || closing_; });
    if (tasks_.empty()) return;
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    for (const Pending& p : task.waits) p->wait();
    task.run();
    task.run = nullptr;
    task.done->signal();
    lock.lock();
  }
}

std::shared_ptr<Stream> findStream(Context& c, const void* handle) {
  std::lock_guard lock(c.mutex);
  if (!c.legacy) {
    c.legacy = std::make_shared<Stream>();
    c.legacy->legacy = true;
  }
  if (reinterpret_cast<uintptr_t>(handle) <= 2) return c.legacy;
  const auto it = c.streams.find(handle);
  return it == c.streams.end() ? nullptr : it->second;
}

int capturing(const Stream& s) { return s.capture != nullptr; }

void perform(Context& c, Work& w) {
  switch (w.kind) {
    case Work::Kind::Empty: return;
    case Work::Kind::Kernel: {
      Launch launch;
      launch.kernel = &w.function->kernel;
      std::copy(w.grid, w.grid + 3, launch.grid);
      std::copy(w.block, w.block + 3, launch.block);
      std::copy(w.cluster, w.cluster + 3, launch.cluster);
      launch.cooperative = w.cooperative;
      launch.dynamicShared = w.dynamicShared;
      launch.parameters = w.parameters;
      launch.memory = &c.memory;
      launch.gridId = c.gridIds.fetch_add(1);
      execute(launch);
      return;
    }
    case Work::Kind::Copy: {
      const auto host = [&](uint64_t address, bool isHost) -> uint8_t* {
        Allocation a;
        if (isHost) return reinterpret_cast<uint8_t*>(address);
        if (!c.memory.find(address, a) || w.bytes > a.address + a.bytes - address) throw Fault(kIllegalAddress, "a copy of " + std::to_string(w.bytes) + " bytes touches " + c.memory.describe(address, w.bytes));
        return reinterpret_cast<uint8_t*>(address & kHostMask);
      };
      std::memmove(host(w.to, w.toHost), w.staged ? w.staged->data() : host(w.from, w.fromHost), w.bytes);
      return;
    }
    case Work::Kind::Fill: {
      Allocation a;
      if (!c.memory.find(w.to, a) || w.bytes > a.address + a.bytes - w.to) throw Fault(kIllegalAddress, "a fill of " + std::to_string(w.bytes) + " bytes touches " + c.memory.describe(w.to, w.bytes));
      uint8_t* to = reinterpret_cast<uint8_t*>(w.to & kHostMask);
      if (w.elementBytes == 1) std::memset(to, int(w.value), w.bytes);
      else
        for (uint64_t i = 0; i < w.bytes; i += w.elementBytes) std::memcpy(to + i, &w.value, w.elementBytes);
      return;
    }
    case Work::Kind::Host: w.call(w.user); return;
  }
}

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/** Puts a task at the end of a stream with the waits that its kind implies. The context's mutex is held. */
Pending enqueue(Context& c, const std::shared_ptr<Stream>& s, std::function<void()> run, std::vector<Pending> waits = {}) {
  if (s->legacy) {
    for (const auto& [handle, other] : c.streams)
      if (!other->nonBlocking && other->last && !other->last->done()) waits.push_back(other->last);
  } else if (!s->nonBlocking && c.legacy && c.legacy->last && !c.legacy->last->done()) {
    waits.push_back(c.legacy->last);
  }
  auto done = std::make_shared<Completion>();
  s->last = done;
  s->push(std::move(run), std::move(waits), done);
  return done;
}

GraphNode* addNode(Context& c, Graph& graph, Work work, std::vector<GraphNode*> after) {
  auto node = std::make_unique<GraphNode>();
  node->work = std::move(work);
  node->after = std::move(after);
  GraphNode* raw = node.get();
  graph.nodes.push_back(std::move(node));
  c.nodes.insert(raw);
  return raw;
}

std::function<void()> guarded(Context& c, std::function<void()> f, bool always = false) {
  return [&c, f = std::move(f), always] {
    if (c.stuck.load() && !always) return;
    try {
      f();
    } catch (const Fault& e) {
      noteFault(c, e.code, e.what());
    } catch (const std::exception& e) {
      noteFault(c, kLaunchFailed, e.what());
    }
  };
}

Event* findEvent(Context& c, const void* handle) {
  const auto it = c.events.find(handle);
  return it == c.events.end() ? nullptr : it->second.get();
}

}  // namespace

int submit(Context& c, const std::shared_ptr<Stream>& s, Work work) {
  std::lock_guard lock(c.mutex);
  if (s->capture) {
    if (s->capture->invalid) return kCaptureInvalidated;
    GraphNode* node = addNode(c, *s->capture->graph, std::move(work), s->captureAfter);
    s->captureAfter = {node};
    return kSuccess;
  }
  if (s->legacy)
    for (const auto& [handle, other] : c.streams)
      if (other->capture && !other->nonBlocking) {
        other->capture->invalid = true;
        return kCaptureImplicit;
      }
  const bool always = work.kind == Work::Kind::Host;
  auto shared = std::make_shared<Work>(std::move(work));
  enqueue(c, s, guarded(c, [&c, shared] { perform(c, *shared); }, always));
  return kSuccess;
}

int prepareKernel(Context& c, LoadedFunction* f, const uint32_t* grid, const uint32_t* block, uint32_t shared, void** parameters, void** extra, Work& w) {
  (void)c;
  const Kernel& k = f->kernel;
  static constexpr uint32_t kMostGrid[] = {2147483647, 65535, 65535}, kMostBlock[] = {1024, 1024, 64};
  uint64_t threads = 1;
  for (int i = 0; i < 3; ++i) {
    if (grid[i] == 0 || grid[i] > kMostGrid[i] || block[i] == 0 || block[i] > kMostBlock[i]) return kInvalidValue;
    threads *= block[i];
  }
  if (threads > 1024) return kInvalidValue;
  if (threads > k.maxThreads) return kInvalidValue;
  if (k.requiredThreads[0] && !std::equal(block, block + 3, k.requiredThreads)) return kInvalidValue;
  if (shared > f->mostDynamicShared) return kInvalidValue;
  w.kind = Work::Kind::Kernel;
  w.function = f;
  std::copy(grid, grid + 3, w.grid);
  std::copy(block, block + 3, w.block);
  w.dynamicShared = shared;
  if (k.requiredCluster[0]) std::copy(k.requiredCluster, k.requiredCluster + 3, w.cluster);
  w.parameters.assign(k.parameterBytes, 0);
  if (parameters) {
    for (size_t i = 0; i < k.parameters.size(); ++i) {
      if (!parameters[i]) return kInvalidValue;
      std::memcpy(w.parameters.data() + k.parameters[i].at, parameters[i], k.parameters[i].bytes);
    }
  } else if (extra) {
    const void* buffer = nullptr;
    size_t bytes = 0;
    for (size_t i = 0; extra[i]; i += 2) {
      if (extra[i] == reinterpret_cast<void*>(1)) buffer = extra[i + 1];
      else if (extra[i] == reinterpret_cast<void*>(2)) bytes = *static_cast<size_t*>(extra[i + 1]);
      else return kInvalidValue;
    }
    if (bytes < k.parameterBytes || (!buffer && k.parameterBytes)) return kInvalidValue;
    if (k.parameterBytes) std::memcpy(w.parameters.data(), buffer, k.parameterBytes);
  } else if (!k.parameters.empty()) {
    return kInvalidValue;
  }
  return kSuccess;
}

namespace {

int checkCluster(const Work& w) {
  const uint64_t size = uint64_t(w.cluster[0]) * w.cluster[1] * w.cluster[2];
  if (size == 0 || size > (w.function->nonPortableCluster ? 16u : 8u)) return kInvalidClusterSize;
  if (size > 1 && device().sm < 90) return kNotSupported;
  for (int i = 0; i < 3; ++i)
    if (w.grid[i] % w.cluster[i]) return kInvalidClusterSize;
  return kSuccess;
}

int launch(LoadedFunction* handle, const uint32_t* grid, const uint32_t* block, uint32_t shared, const void* stream, void** parameters, void** extra,
           const uint32_t* cluster, bool cooperative) {
  Context* c;
  if (const int e = enter(c)) return e;
  LoadedFunction* f = findFunction(*c, handle);
  if (!f) return kInvalidHandle;
  const std::shared_ptr<Stream> s = findStream(*c, stream);
  if (!s) return kInvalidHandle;
  Work w;
  if (const int e = prepareKernel(*c, f, grid, block, shared, parameters, extra, w)) return e;
  if (cluster) {
    if (f->kernel.requiredCluster[0] && !std::equal(cluster, cluster + 3, f->kernel.requiredCluster)) return kInvalidClusterSize;
    std::copy(cluster, cluster + 3, w.cluster);
  }
  if (const int e = checkCluster(w)) return e;
  w.cooperative = cooperative;
  if (cooperative && uint64_t(grid[0]) * grid[1] * grid[2] > 132 * 32) return 720;  // COOPERATIVE_LAUNCH_TOO_LARGE
  return submit(*c, s, std::move(w));
}

struct LaunchAttribute {
  int id;
  char pad[4];
  union {
    char bytes[64];
    uint32_t cluster[3];
    int cooperative;
  } value;
};
static_assert(sizeof(LaunchAttribute) == 72);
struct LaunchConfig {
  uint32_t grid[3], block[3];
  uint32_t shared;
  void* stream;
  LaunchAttribute* attributes;
  uint32_t count;
};

}  // namespace

void destroyContext(std::unique_ptr<Context> context) {
  std::vector<std::shared_ptr<Stream>> all;
  {
    std::lock_guard lock(context->mutex);
    for (const auto& [h, s] : context->streams) all.push_back(s);
    if (context->legacy) all.push_back(context->legacy);
  }
  for (const auto& s : all) {
    if (s->last) s->last->wait();
    s->close();
  }
  if (current() == context.get()) current() = nullptr;
}

}  // namespace vcuda

using namespace vcuda;

// Launches

API int cuLaunchKernel(LoadedFunction* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream,
                       void** parameters, void** extra) {
  const uint32_t grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
  return launch(f, grid, block, shared, stream, parameters, extra, nullptr, false);
}

API int cuLaunchCooperativeKernel(LoadedFunction* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                                  void* stream, void** parameters) {
  const uint32_t grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
  return launch(f, grid, block, shared, stream, parameters, nullptr, nullptr, true);
}

API int cuLaunchKernelEx(const LaunchConfig* config, LoadedFunction* f, void** parameters, void** extra) {
  if (!config) return kInvalidValue;
  const uint32_t* cluster = nullptr;
  bool cooperative = false;
  for (uint32_t i = 0; i < config->count; ++i) {
    const LaunchAttribute& a = config->attributes[i];
    if (a.id == 4) cluster = a.value.cluster;
    else if (a.id == 2) cooperative = a.value.cooperative != 0;
    else if (a.id == 0 || a.id == 1 || a.id == 3 || a.id == 5 || a.id == 6 || a.id == 8 || a.id == 9 || a.id == 10) continue;  // hints
    else return kNotSupported;
  }
  return launch(f, config->grid, config->block, config->shared, config->stream, parameters, extra, cluster, cooperative);
}

API int cuLaunchHostFunc(void* stream, void (*call)(void*), void* user) {
  Context* c;
  if (const int e = enter(c)) return e;
  const std::shared_ptr<Stream> s = findStream(*c, stream);
  if (!s) return kInvalidHandle;
  if (!call) return kInvalidValue;
  Work w;
  w.kind = Work::Kind::Host;
  w.call = call;
  w.user = user;
  return submit(*c, s, std::move(w));
}

// Streams

API int cuStreamCreate(void** stream, unsigned flags) {
  Context* c;
  if (const int e = enter(c)) return e;
  if (!stream || flags > 1) return kInvalidValue;
  auto s = std::make_shared<Stream>();
  s->nonBlocking = flags & 1;
  *stream = s.get();
  findStream(*c, nullptr);
  std::lock_guard lock(c->mutex);
  c->streams[s.get()] = s;
  return kSuccess;
}
API int cuStreamCreateWithPriority(void** stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }

API int cuStreamDestroy_v2(void* handle) {
  Context* c;
  // Also after a failure: a stuck context still lets its handles go.
  const int state = enter(c);
  if (!c || state == kContextDestroyed) return state;
  std::lock_guard lock(c->mutex);
  const auto it = c->streams.find(handle);
  if (it == c->streams.end()) return kInvalidHandle;
  it->second->close();
  c->streams.erase(it);
  return state;
}
API int cuStreamDestroy(void* handle) { return cuStreamDestroy_v2(handle); }

API int cuStreamGetFlags(void* handle, unsigned* flags) {
  Context* c;
  if (const int e = enter(c)) return e;
  const auto s = findStream(*c, handle);
  if (!s) return kInvalidHandle;
  *flags = s->nonBlocking;
  return kSuccess;
}
API int cuStreamGetPriority(void*, int* priority) {
  *priority = 0;
  return kSuccess;
}
API int cuStreamGetCtx(void*, Context** context) {
  *context = current();
  return kSuccess;
}

API int cuStreamSynchronize(void* handle) {
  Context* c;
  if (const int e = enter(c)) return e;
  const auto s = findStream(*c, handle);
  if (!s) return kInvalidHandle;
  std::vector<Pending> waits;
  {
    std::lock_guard lock(c->mutex);
    if (s->capture) {
      s->capture->invalid = true;
      return kCaptureUnsupported;
    }
    if (s->last) waits.push_back(s->last);
    if (s->legacy)
      for (const auto& [h, other] : c->streams)
        if (!other->nonBlocking && other->last) waits.push_back(other->last);
  }
  for (const Pending& p : waits) p->wait();
  return c->stuck.load();
}

API int cuStreamQuery(void* handle) {
  Context* c;
  if (const int e = enter(c)) return e;
  const auto s = findStream(*c, handle);
  if (!s) return kInvalidHandle;
  std::lock_guard lock(c->mutex);
  if (s->capture) {
    s->capture->invalid = true;
    return kCaptureUnsupported;
  }
  return s->last && !s->last->done() ? int(kNotReady) : c->stuck.load();
}

API int cuCtxSynchronize() {
  Context* c;
  if (const int e = enter(c)) return e;
  findStream(*c, nullptr);
  std::vector<Pending> waits;
  {
    std::lock_guard lock(c->mutex);
    for (const auto& [h, s] : c->streams) {
      if (s->capture) return kCaptureUnsupported;
      if (s->last) waits.push_back(s->last);
    }
    if (c->legacy->last) waits.push_back(c->legacy->last);
  }
  for (const Pending& p : waits) p->wait();
  return c->stuck.load();
}

API int cuStreamWaitEvent(void* handle, void* eventHandle, unsigned) {
  Context* c;
  if (const int e = enter(c)) return e;
  const auto s = findStream(*c, handle);
  if (!s) return kInvalidHandle;
  std::lock_guard lock(c->mutex);
  Event* event = findEvent(*c, eventHandle);
  if (!event) return kInvalidHandle;
  if (event->capture) {
    if (s->capture && s->capture != event->capture) return kCaptureMerge;
    if (s->legacy) return kCaptureImplicit;
    if (!s->capture) {
      s->capture = event->capture;
      s->captureAfter.clear();
      event->capture->members.push_back(s.get());
    }
    for (GraphNode* n : event->captureAfter)
      if (std::find(s->captureAfter.begin(), s->captureAfter.end(), n) == s->captureAfter.end()) s->captureAfter.push_back(n);
    return kSuccess;
  }
  if (s->capture) return kCaptureIsolation;
  if (!event->record || event->record->completion->done()) return kSuccess;
  enqueue(*c, s, [] {}, {event->record->completion});
  return kSuccess;
}

// Events

API int cuEventCreate(void** out, unsigned flags) {
  Context* c;
  if (const int e = enter(c)) return e;
  if (!out || flags > 7) return kInvalidValue;
  auto event = std::make_unique<Event>();
  event->timing = !(flags & 2);
  *out = event.get();
  std::lock_guard lock(c->mutex);
  c->events[event.get()] = std::move(event);
  return kSuccess;
}

API int cuEventDestroy_v2(void* handle) {
  Context* c;
  const int state = enter(c);
  if (!c || state == kContextDestroyed) return state;
  std::lock_guard lock(c->mutex);
  return c->events.erase(handle) ? state : int(kInvalidHandle);
}
API int cuEventDestroy(void* handle) { return cuEventDestroy_v2(handle); }

API int cuEventRecord(void* handle, void* stream) {
  Context* c;
  if (const int e = enter(c)) return e;
  const auto s = findStream(*c, stream);
  if (!s) return kInvalidHandle;
  std::lock_guard lock(c->mutex);
  Event* event = findEvent(*c, handle);
  if (!event) return kInvalidHandle;
  if (s->capture) {
    event->capture = s->capture;
    event->captureAfter = s->captureAfter;
    event->record = nullptr;
    return kSuccess;
  }
  event->capture = nullptr;
  auto record = std::make_shared<Event::Record>();
  event->record = record;
  record->completion = enqueue(*c, s, [record] { record->seconds = now(); });
  return kSuccess;
}
API int cuEventRecordWithFlags(void* handle, void* stream, unsigned) { return cuEventRecord(handle, stream); }

API int cuEventQuery(void* handle) {
  Context* c;
  if (const int e = enter(c)) return e;
  std::lock_guard lock(c->mutex);
  Event* event = findEvent(*c, handle);
  if (!event) return kInvalidHandle;
  if (event->capture) return kCapturedEvent;
  return event->record && !event->record->completion->done() ? int(kNotReady) : c->stuck.load();
}

API int cuEventSynchronize(void* handle) {
  Context* c;
  if (const int e = enter(c)) return e;
  Pending wait;
  {
    std::lock_guard lock(c->mutex);
    Event* event = findEvent(*c, handle);
    if (!event) return kInvalidHandle;
    if (event->capture) return kCapturedEvent;
    if (event->record) wait = event->record->completion;
  }
  if (wait) wait->wait();
  return c->stuck.load();
}

API int cuEventElapsedTime(float* milliseconds, void* start, void* end) {
  Context* c;
  if (const int e = enter(c)) return e;
  std::lock_guard lock(c->mutex);
  Event *a = findEvent(*c, start), *b = findEvent(*c, end);
  if (!a || !b || !a->record || !b->record || !a->timing || !b->timing) return kInvalidHandle;
  if (!a->record->completion->done() || !b->record->completion->done()) return kNotReady;
  *milliseconds = float((b->record->seconds - a->record->seconds) * 1e3);
  return kSuccess;
}
API int cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) { return cuEventElapsedTime(milliseconds, start, end); }

// Capture

API int cuStreamBeginCapture_v2(void* handle, int mode) {
  Context* c;
  if (const int e = enter(c)) return e;
  if (mode < 0 || mode > 2) return kInvalidValue;
  const auto s = findStream(*c, handle);
  if (!s) return kInvalidHandle;
  if (s->legacy) return kCaptureUnsupported;
  std::lock_guard lock(c->mutex);
  if (s->capture) return kIllegalState;
  auto graph = std::make_unique<Graph>();
  s->capture = std::make_shared<Capture>();
  s->capture->graph = graph.get();
  s->capture->origin = s.get();
  s->capture->members = {s.get()};
  s->captureAfter.clear();
  c->graphs[graph.get()] = std::move(graph);
  return kSuccess;
}

API int cuStreamEndCapture(void* handle, Graph** out) {
  Context* c;
  if (const int e = enter(c)) return e;
  const auto s = findStream(*c, handle);
  if (!s) return kInvalidHandle;
  if (!out) return kInvalidValue;
  std::lock_guard lock(c->mutex);
  if (!s->capture) return kIllegalState;
  if (s->capture->origin != s.get()) return kCaptureUnmatched;
  const std::shared_ptr<Capture> capture = s->capture;
  // Everything that was captured must lead to where the origin stands.
  std::set<const GraphNode*> reached;
  std::vector<GraphNode*> stack = s->captureAfter;
  while (!stack.empty()) {
    GraphNode* n = stack.back();
    stack.pop_back();
    if (reached.insert(n).second) stack.insert(stack.end(), n->after.begin(), n->after.end());
  }
  bool joined = true;
  for (Stream* member : capture->members) {
    for (const GraphNode* n : member->captureAfter) joined &= reached.count(n) != 0;
    member->capture = nullptr;
    member->captureAfter.clear();
  }
  if (capture->invalid || !joined) {
    for (const auto& n : capture->graph->nodes) c->nodes.erase(n.get());
    c->graphs.erase(capture->graph);
    *out = nullptr;
    return capture->invalid ? kCaptureInvalidated : kCaptureUnjoined;
  }
  *out = capture->graph;
  return kSuccess;
}

API int cuStreamIsCapturing(void* handle, int* status) {
  Context* c;
  if (const int e = enter(c)) return e;
  const auto s = findStream(*c, handle);
  if (!s) return kInvalidHandle;
  std::lock_guard lock(c->mutex);
  *status = !s->capture ? 0 : s->capture->invalid ? 2 : 1;
  return kSuccess;
}

API int cuStreamGetCaptureInfo_v2(void* handle, int* status, uint64_t* id, Graph** graph, GraphNode* const** after, size_t* count) {
  Context* c;
  if (const int e = enter(c)) return e;
  const auto s = findStream(*c, handle);
  if (!s) return kInvalidHandle;
  std::lock_guard lock(c->mutex);
  *status = !s->capture ? 0 : s->capture->invalid ? 2 : 1;
  if (!s->capture) return kSuccess;
  if (id) *id = reinterpret_cast<uintptr_t>(s->capture.get());
  if (graph) *graph = s->capture->graph;
  if (after) *after = s->captureAfter.data();
  if (count) *count = s->captureAfter.size();
  return kSuccess;
}

API int cuGraphLaunch(GraphExec* handle, void* stream) {
  Context* c;
  if (const int e = enter(c)) return e;
  const auto s = findStream(*c, stream);
  if (!s) return kInvalidHandle;
  std::lock_guard lock(c->mutex);
  const auto it = c->execs.find(handle);
  if (it == c->execs.end()) return kInvalidHandle;
  if (s->capture) return kCaptureUnsupported;
  // What the nodes say now is what runs, even if they are changed before it does.
  auto copy = std::make_shared<GraphExec>();
  copy->launches = it->second->launches++;
  for (const auto& n : it->second->nodes) {
    auto node = std::make_unique<GraphNode>();
    node->work = n->work;
    copy->byOriginal[n.get()] = node.get();
    copy->nodes.push_back(std::move(node));
  }
  for (size_t i = 0; i < copy->nodes.size(); ++i)
    for (const GraphNode* a : it->second->nodes[i]->after) copy->nodes[i]->after.push_back(copy->byOriginal[a]);
  enqueue(*c, s, guarded(*c, [c, copy] { runGraph(*c, *copy); }));
  return kSuccess;
}
