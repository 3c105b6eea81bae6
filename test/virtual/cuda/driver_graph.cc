// Graphs: nodes built one by one or by capture, instantiation, patching of kernel nodes, execution in an order that
// only the dependencies fix (it alternates, so that a missing dependency shows).
#include <algorithm>
#include <cstring>

#include "driver.h"

namespace vcuda {

void runGraph(Context& c, GraphExec& exec) {
  std::set<const GraphNode*> done;
  std::vector<GraphNode*> left;
  for (const auto& n : exec.nodes) left.push_back(n.get());
  const bool newestFirst = exec.launches & 1;
  while (!left.empty()) {
    const auto ready = [&](const GraphNode* n) { return std::all_of(n->after.begin(), n->after.end(), [&](const GraphNode* a) { return done.count(a) != 0; }); };
    size_t pick = left.size();
    for (size_t i = 0; i < left.size(); ++i) {
      const size_t at = newestFirst ? left.size() - 1 - i : i;
      if (ready(left[at])) {
        pick = at;
        break;
      }
    }
    if (pick == left.size()) throw Fault(kLaunchFailed, "internal: a graph with a cycle");
    GraphNode* n = left[pick];
    left.erase(left.begin() + long(pick));
    perform(c, n->work);
    done.insert(n);
  }
}

namespace {

Graph* findGraph(Context& c, const void* handle) {
  const auto it = c.graphs.find(handle);
  return it == c.graphs.end() ? nullptr : it->second.get();
}

int addNode(Context& c, GraphNode** out, Graph* handle, GraphNode* const* after, size_t count, Work work) {
  Graph* graph = findGraph(c, handle);
  if (!graph) return kInvalidHandle;
  if (!out || (count && !after)) return kInvalidValue;
  auto node = std::make_unique<GraphNode>();
  node->work = std::move(work);
  for (size_t i = 0; i < count; ++i) {
    const bool mine = std::any_of(graph->nodes.begin(), graph->nodes.end(), [&](const auto& n) { return n.get() == after[i]; });
    if (!mine) return kInvalidValue;
    node->after.push_back(after[i]);
  }
  *out = node.get();
  c.nodes.insert(node.get());
  graph->nodes.push_back(std::move(node));
  return kSuccess;
}

/** CUDA_KERNEL_NODE_PARAMS, and _v2 with two more fields behind. */
struct KernelNode {
  LoadedFunction* function;
  uint32_t grid[3], block[3];
  uint32_t shared;
  void** parameters;
  void** extra;
};
struct KernelNodeV2 : KernelNode {
  void* kernel;
  Context* context;
};

struct CopyNode {  // CUDA_MEMCPY3D
  size_t srcX, srcY, srcZ, srcLod;
  int srcType;
  const void* srcHost;
  uint64_t srcDevice;
  void* srcArray;
  void* reserved0;
  size_t srcPitch, srcHeight;
  size_t dstX, dstY, dstZ, dstLod;
  int dstType;
  void* dstHost;
  uint64_t dstDevice;
  void* dstArray;
  void* reserved1;
  size_t dstPitch, dstHeight;
  size_t width, height, depth;
};
static_assert(sizeof(CopyNode) == 200);

struct FillNode {  // CUDA_MEMSET_NODE_PARAMS
  uint64_t to;
  size_t pitch;
  unsigned value, elementBytes;
  size_t width, height;
};

int kernelWork(Context& c, const KernelNode* p, Work& w) {
  if (!p) return kInvalidValue;
  LoadedFunction* f = findFunction(c, p->function);
  if (!f) return kInvalidHandle;
  return prepareKernel(c, f, p->grid, p->block, p->shared, p->parameters, p->extra, w);
}

int copyWork(const CopyNode* p, Work& w) {
  if (!p) return kInvalidValue;
  if (p->height > 1 || p->depth > 1 || p->srcY || p->srcZ || p->dstY || p->dstZ) return kNotSupported;
  w.kind = Work::Kind::Copy;
  w.bytes = p->width;
  w.fromHost = p->srcType == 1;
  w.toHost = p->dstType == 1;
  if (p->srcType == 3 || p->dstType == 3 || p->srcType == 0 || p->dstType == 0) return kNotSupported;
  w.from = (w.fromHost ? uint64_t(p->srcHost) : p->srcDevice) + p->srcX;
  w.to = (w.toHost ? uint64_t(p->dstHost) : p->dstDevice) + p->dstX;
  return kSuccess;
}

int fillWork(const FillNode* p, Work& w) {
  if (!p) return kInvalidValue;
  if (p->height > 1) return kNotSupported;
  if (p->elementBytes != 1 && p->elementBytes != 2 && p->elementBytes != 4) return kInvalidValue;
  w.kind = Work::Kind::Fill;
  w.to = p->to;
  w.value = p->value;
  w.elementBytes = p->elementBytes;
  w.bytes = p->width * p->elementBytes;
  return kSuccess;
}

int findExec(Context& c, const void* handle, std::shared_ptr<GraphExec>& out) {
  const auto it = c.execs.find(handle);
  if (it == c.execs.end()) return kInvalidHandle;
  out = it->second;
  return kSuccess;
}

/** Replaces the work of an instantiated node; its kind stays. */
int setExec(Context& c, GraphExec* handle, GraphNode* node, Work work) {
  std::lock_guard lock(c.mutex);
  std::shared_ptr<GraphExec> exec;
  if (const int e = findExec(c, handle, exec)) return e;
  const auto it = exec->byOriginal.find(node);
  if (it == exec->byOriginal.end()) return kInvalidValue;
  if (it->second->work.kind != work.kind) return kInvalidValue;
  if (work.kind == Work::Kind::Kernel) std::copy(it->second->work.cluster, it->second->work.cluster + 3, work.cluster);
  it->second->work = std::move(work);
  return kSuccess;
}

}  // namespace
}  // namespace vcuda

using namespace vcuda;

#define ENTER()               \
  Context* c;                 \
  if (const int e = enter(c)) return e

API int cuGraphCreate(Graph** graph, unsigned flags) {
  ENTER();
  if (!graph || flags) return kInvalidValue;
  auto g = std::make_unique<Graph>();
  *graph = g.get();
  std::lock_guard lock(c->mutex);
  c->graphs[g.get()] = std::move(g);
  return kSuccess;
}

API int cuGraphDestroy(Graph* graph) {
  ENTER();
  std::lock_guard lock(c->mutex);
  Graph* g = findGraph(*c, graph);
  if (!g) return kInvalidHandle;
  for (const auto& n : g->nodes) c->nodes.erase(n.get());
  c->graphs.erase(graph);
  return kSuccess;
}

API int cuGraphAddKernelNode(GraphNode** node, Graph* graph, GraphNode* const* after, size_t count, const KernelNode* p) {
  ENTER();
  Work w;
  if (const int e = kernelWork(*c, p, w)) return e;
  std::lock_guard lock(c->mutex);
  return addNode(*c, node, graph, after, count, std::move(w));
}
API int cuGraphAddKernelNode_v2(GraphNode** node, Graph* graph, GraphNode* const* after, size_t count, const KernelNodeV2* p) {
  return cuGraphAddKernelNode(node, graph, after, count, p);
}

API int cuGraphAddMemcpyNode(GraphNode** node, Graph* graph, GraphNode* const* after, size_t count, const CopyNode* p, Context*) {
  ENTER();
  Work w;
  if (const int e = copyWork(p, w)) return e;
  std::lock_guard lock(c->mutex);
  return addNode(*c, node, graph, after, count, std::move(w));
}

API int cuGraphAddMemsetNode(GraphNode** node, Graph* graph, GraphNode* const* after, size_t count, const FillNode* p, Context*) {
  ENTER();
  Work w;
  if (const int e = fillWork(p, w)) return e;
  std::lock_guard lock(c->mutex);
  return addNode(*c, node, graph, after, count, std::move(w));
}

API int cuGraphAddEmptyNode(GraphNode** node, Graph* graph, GraphNode* const* after, size_t count) {
  ENTER();
  std::lock_guard lock(c->mutex);
  return addNode(*c, node, graph, after, count, Work{});
}

struct HostNode {
  void (*call)(void*);
  void* user;
};
API int cuGraphAddHostNode(GraphNode** node, Graph* graph, GraphNode* const* after, size_t count, const HostNode* p) {
  ENTER();
  if (!p || !p->call) return kInvalidValue;
  Work w;
  w.kind = Work::Kind::Host;
  w.call = p->call;
  w.user = p->user;
  std::lock_guard lock(c->mutex);
  return addNode(*c, node, graph, after, count, std::move(w));
}

API int cuGraphGetNodes(Graph* graph, GraphNode** nodes, size_t* count) {
  ENTER();
  std::lock_guard lock(c->mutex);
  Graph* g = findGraph(*c, graph);
  if (!g) return kInvalidHandle;
  if (!count) return kInvalidValue;
  if (nodes) {
    const size_t room = *count;
    for (size_t i = 0; i < room; ++i) nodes[i] = i < g->nodes.size() ? g->nodes[i].get() : nullptr;
    *count = std::min(room, g->nodes.size());
  } else {
    *count = g->nodes.size();
  }
  return kSuccess;
}

API int cuGraphNodeGetType(GraphNode* node, int* type) {
  ENTER();
  std::lock_guard lock(c->mutex);
  if (!c->nodes.count(node)) return kInvalidHandle;
  switch (node->work.kind) {
    case Work::Kind::Kernel: *type = 0; break;
    case Work::Kind::Copy: *type = 1; break;
    case Work::Kind::Fill: *type = 2; break;
    case Work::Kind::Host: *type = 3; break;
    case Work::Kind::Empty: *type = 5; break;
  }
  return kSuccess;
}

API int cuGraphNodeGetDependencies(GraphNode* node, GraphNode** after, size_t* count) {
  ENTER();
  std::lock_guard lock(c->mutex);
  if (!c->nodes.count(node)) return kInvalidHandle;
  if (!count) return kInvalidValue;
  if (after)
    for (size_t i = 0; i < *count; ++i) after[i] = i < node->after.size() ? node->after[i] : nullptr;
  *count = after ? std::min(*count, node->after.size()) : node->after.size();
  return kSuccess;
}

API int cuGraphKernelNodeGetParams(GraphNode* node, KernelNode* p) {
  ENTER();
  std::lock_guard lock(c->mutex);
  if (!c->nodes.count(node)) return kInvalidHandle;
  if (node->work.kind != Work::Kind::Kernel || !p) return kInvalidValue;
  const Work& w = node->work;
  p->function = w.function;
  std::copy(w.grid, w.grid + 3, p->grid);
  std::copy(w.block, w.block + 3, p->block);
  p->shared = w.dynamicShared;
  p->extra = nullptr;
  // Pointers into the node, valid until it is changed: as documented for the driver.
  thread_local std::vector<void*> pointers;
  pointers.clear();
  for (const Kernel::Parameter& q : w.function->kernel.parameters) pointers.push_back(node->work.parameters.data() + q.at);
  p->parameters = pointers.data();
  return kSuccess;
}
API int cuGraphKernelNodeGetParams_v2(GraphNode* node, KernelNodeV2* p) {
  if (!p) return kInvalidValue;
  p->kernel = nullptr;
  p->context = current();
  return cuGraphKernelNodeGetParams(node, p);
}

API int cuGraphKernelNodeSetParams(GraphNode* node, const KernelNode* p) {
  ENTER();
  Work w;
  if (const int e = kernelWork(*c, p, w)) return e;
  std::lock_guard lock(c->mutex);
  if (!c->nodes.count(node)) return kInvalidHandle;
  if (node->work.kind != Work::Kind::Kernel) return kInvalidValue;
  std::copy(node->work.cluster, node->work.cluster + 3, w.cluster);
  node->work = std::move(w);
  return kSuccess;
}
API int cuGraphKernelNodeSetParams_v2(GraphNode* node, const KernelNodeV2* p) { return cuGraphKernelNodeSetParams(node, p); }

API int cuGraphInstantiateWithFlags(GraphExec** out, Graph* graph, unsigned long long flags) {
  ENTER();
  (void)flags;
  std::lock_guard lock(c->mutex);
  Graph* g = findGraph(*c, graph);
  if (!g) return kInvalidHandle;
  if (!out) return kInvalidValue;
  auto exec = std::make_shared<GraphExec>();
  for (const auto& n : g->nodes) {
    auto node = std::make_unique<GraphNode>();
    node->work = n->work;
    exec->byOriginal[n.get()] = node.get();
    exec->nodes.push_back(std::move(node));
  }
  for (size_t i = 0; i < g->nodes.size(); ++i)
    for (const GraphNode* a : g->nodes[i]->after) exec->nodes[i]->after.push_back(exec->byOriginal[a]);
  *out = exec.get();
  c->execs[exec.get()] = exec;
  return kSuccess;
}
API int cuGraphInstantiate_v2(GraphExec** out, Graph* graph, GraphNode**, char*, size_t) { return cuGraphInstantiateWithFlags(out, graph, 0); }

API int cuGraphExecDestroy(GraphExec* exec) {
  ENTER();
  std::lock_guard lock(c->mutex);
  return c->execs.erase(exec) ? kSuccess : kInvalidHandle;
}

API int cuGraphUpload(GraphExec*, void*) {
  ENTER();
  return kSuccess;
}

API int cuGraphExecKernelNodeSetParams(GraphExec* exec, GraphNode* node, const KernelNode* p) {
  ENTER();
  Work w;
  if (const int e = kernelWork(*c, p, w)) return e;
  return setExec(*c, exec, node, std::move(w));
}
API int cuGraphExecKernelNodeSetParams_v2(GraphExec* exec, GraphNode* node, const KernelNodeV2* p) { return cuGraphExecKernelNodeSetParams(exec, node, p); }

API int cuGraphExecMemcpyNodeSetParams(GraphExec* exec, GraphNode* node, const CopyNode* p, Context*) {
  ENTER();
  Work w;
  if (const int e = copyWork(p, w)) return e;
  return setExec(*c, exec, node, std::move(w));
}

API int cuGraphExecMemsetNodeSetParams(GraphExec* exec, GraphNode* node, const FillNode* p, Context*) {
  ENTER();
  Work w;
  if (const int e = fillWork(p, w)) return e;
  return setExec(*c, exec, node, std::move(w));
}
