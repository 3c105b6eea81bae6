// Drives a CUDA driver library by commands from standard input, one per line, one answer line per command:
// `ok [value]` or `error <code> <name>[: <text>]`. It only knows the public API, so that it runs against a real driver too.
//
//   module M FILE                      cuModuleLoadDataEx; an error carries the JIT log
//   alloc B BYTES | free B | pinned B BYTES
//   put B OFFSET HEX | get B OFFSET BYTES | fill B OFFSET WIDTH VALUE COUNT
//   launch M KERNEL GX GY GZ BX BY BZ SHARED STREAM ARG…      ARG: @B[+offset], u32:N, u64:N, s32:N, f32:X, hex:BYTES
//   cluster X Y Z                      of the launches that follow (0 0 0: none)
//   most M KERNEL BYTES                cuFuncSetAttribute, dynamic shared memory
//   attribute M KERNEL N               cuFuncGetAttribute
//   stream S FLAGS | sync S | query S | destroy S
//   event E | record E S | await S E | wait E | done E | elapsed E F
//   copy DST OFFSET SRC OFFSET BYTES S   by the kinds of the buffers (pinned or device)
//   set B OFFSET WIDTH VALUE COUNT S
//   sleep S MILLISECONDS               a host function on the stream
//   note S TEXT | notes                host functions that append to a list; the list
//   capture S | endcapture S G | instantiate G X | replay X S | nodes G
//   patch X G INDEX M KERNEL GX GY GZ BX BY BZ SHARED ARG…
//   tensormap T TYPE RANK @B[+o] DIMS STRIDES BOX ELEMENTSTRIDES INTERLEAVE SWIZZLE L2 FILL   (lists with commas)
//   symbol B M NAME | context          (context: reset the primary context and take it again)
//   fault | address B | synchronize
#include <dlfcn.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

void* library = nullptr;

template <class... A>
int call(const char* name, A... arguments) {
  static std::map<std::string, void*> known;
  void*& f = known[name];
  if (!f) f = dlsym(library, name);
  if (!f) throw std::string("error -1 no entry point ") + name;
  return reinterpret_cast<int (*)(A...)>(f)(arguments...);
}

std::string nameOf(int code) {
  const char* text = nullptr;
  call("cuGetErrorName", code, &text);
  return text ? text : "?";
}

void check(int code, const std::string& more = "") {
  if (code) throw "error " + std::to_string(code) + " " + nameOf(code) + (more.empty() ? "" : ": " + more);
}

struct Buffer {
  uint64_t address;
  uint64_t bytes;
  bool pinned;
};

std::map<std::string, void*> modules, streams, events, graphs, execs;
std::map<std::string, Buffer> buffers;
std::map<std::string, std::vector<uint8_t>> tensorMaps;
std::map<std::pair<std::string, std::string>, void*> functions;
uint32_t cluster[3] = {0, 0, 0};
std::mutex notesMutex;
std::string notes;

void* find(std::map<std::string, void*>& m, const std::string& name) {
  const auto it = m.find(name);
  if (it == m.end()) throw "error -1 no such name " + name;
  return it->second;
}
void* stream(const std::string& name) { return name == "0" ? nullptr : find(streams, name); }
Buffer& buffer(const std::string& name) {
  const auto it = buffers.find(name);
  if (it == buffers.end()) throw "error -1 no buffer " + name;
  return it->second;
}

std::vector<uint8_t> unhex(const std::string& text) {
  std::vector<uint8_t> v;
  for (size_t i = 0; i + 1 < text.size(); i += 2) v.push_back(uint8_t(std::stoi(text.substr(i, 2), nullptr, 16)));
  return v;
}
std::string hex(const std::vector<uint8_t>& v) {
  std::string s;
  char t[3];
  for (const uint8_t b : v) {
    std::snprintf(t, sizeof t, "%02x", b);
    s += t;
  }
  return s;
}

uint64_t addressOf(const std::string& text) {
  const size_t plus = text.find_first_of("+-", 1);
  const Buffer& b = buffer(text.substr(1, plus == std::string::npos ? std::string::npos : plus - 1));
  return b.address + (plus == std::string::npos ? 0 : uint64_t(std::stoll(text.substr(plus))));
}

std::vector<uint8_t> argument(const std::string& text) {
  std::vector<uint8_t> v;
  const auto put = [&](const void* p, size_t n) { v.assign(static_cast<const uint8_t*>(p), static_cast<const uint8_t*>(p) + n); };
  if (text[0] == '@') {
    const uint64_t a = addressOf(text);
    put(&a, 8);
    return v;
  }
  const size_t colon = text.find(':');
  const std::string kind = text.substr(0, colon), value = text.substr(colon + 1);
  if (kind == "u32") { const uint32_t x = uint32_t(std::stoull(value)); put(&x, 4); }
  else if (kind == "s32") { const int32_t x = int32_t(std::stoll(value)); put(&x, 4); }
  else if (kind == "u64") { const uint64_t x = std::stoull(value); put(&x, 8); }
  else if (kind == "f32") { const float x = std::stof(value); put(&x, 4); }
  else if (kind == "hex") v = unhex(value);
  else if (kind == "map") {
    // A CUtensorMap is 64-byte aligned in the parameters as in memory.
    v = tensorMaps.at(value);
  }
  else throw "error -1 unknown argument " + text;
  return v;
}

void* function(const std::string& module, const std::string& name) {
  void*& f = functions[{module, name}];
  if (!f) check(call("cuModuleGetFunction", &f, find(modules, module), name.c_str()));
  return f;
}

struct Attribute {
  int id;
  char pad[4];
  union {
    char bytes[64];
    uint32_t cluster[3];
  };
};
struct Config {
  uint32_t grid[3], block[3], shared;
  void* stream;
  Attribute* attributes;
  uint32_t count;
};
struct KernelNode {
  void* function;
  uint32_t grid[3], block[3], shared;
  void** parameters;
  void** extra;
  void* kernel;
  void* context;
};

struct Arguments {
  std::vector<std::vector<uint8_t>> values;
  std::vector<void*> pointers;
  explicit Arguments(std::istream& in) {
    std::string text;
    while (in >> text) values.push_back(argument(text));
    for (auto& v : values) pointers.push_back(v.data());
  }
};

struct Sleep {
  int ms;
};
struct Note {
  std::string text;
};

std::vector<uint64_t> list(const std::string& text) {
  std::vector<uint64_t> v;
  std::istringstream in(text);
  std::string item;
  while (std::getline(in, item, ',')) v.push_back(std::stoull(item));
  return v;
}

std::string run(const std::string& line) {
  std::istringstream in(line);
  std::string command, a, b;
  in >> command;
  if (command == "module") {
    in >> a >> b;
    std::ifstream file(b);
    std::stringstream text;
    text << file.rdbuf();
    std::vector<char> log(8192);
    int options[] = {5, 6};
    void* values[] = {log.data(), reinterpret_cast<void*>(log.size())};
    void* m = nullptr;
    const std::string source = text.str();
    const int code = call("cuModuleLoadDataEx", &m, static_cast<const void*>(source.c_str()), 2u, static_cast<int*>(options), static_cast<void**>(values));
    check(code, log.data());
    modules[a] = m;
  } else if (command == "unload") {
    in >> a;
    check(call("cuModuleUnload", find(modules, a)));
  } else if (command == "alloc" || command == "pinned") {
    uint64_t bytes;
    in >> a >> bytes;
    if (command == "alloc") {
      uint64_t address = 0;
      check(call("cuMemAlloc_v2", &address, size_t(bytes)));
      buffers[a] = {address, bytes, false};
    } else {
      void* p = nullptr;
      check(call("cuMemAllocHost_v2", &p, size_t(bytes)));
      buffers[a] = {uint64_t(p), bytes, true};
    }
  } else if (command == "free") {
    in >> a;
    const Buffer& x = buffer(a);
    if (x.pinned) check(call("cuMemFreeHost", reinterpret_cast<void*>(x.address)));
    else check(call("cuMemFree_v2", x.address));
  } else if (command == "address") {
    in >> a;
    return "ok " + std::to_string(buffer(a).address);
  } else if (command == "symbol") {
    std::string m;
    in >> a >> m >> b;
    uint64_t address = 0;
    size_t bytes = 0;
    check(call("cuModuleGetGlobal_v2", &address, &bytes, find(modules, m), b.c_str()));
    buffers[a] = {address, bytes, false};
    return "ok " + std::to_string(bytes);
  } else if (command == "put") {
    uint64_t offset;
    in >> a >> offset >> b;
    const std::vector<uint8_t> v = unhex(b);
    const Buffer& x = buffer(a);
    if (x.pinned) std::memcpy(reinterpret_cast<char*>(x.address) + offset, v.data(), v.size());
    else check(call("cuMemcpyHtoD_v2", x.address + offset, static_cast<const void*>(v.data()), v.size()));
  } else if (command == "get") {
    uint64_t offset, bytes;
    in >> a >> offset >> bytes;
    std::vector<uint8_t> v(bytes);
    const Buffer& x = buffer(a);
    if (x.pinned) std::memcpy(v.data(), reinterpret_cast<char*>(x.address) + offset, bytes);
    else check(call("cuMemcpyDtoH_v2", static_cast<void*>(v.data()), x.address + offset, size_t(bytes)));
    return "ok " + hex(v);
  } else if (command == "fill" || command == "set") {
    uint64_t offset, count;
    int width;
    unsigned value;
    in >> a >> offset >> width >> value >> count;
    const uint64_t to = buffer(a).address + offset;
    if (command == "fill") {
      if (width == 1) check(call("cuMemsetD8_v2", to, static_cast<unsigned char>(value), size_t(count)));
      else if (width == 2) check(call("cuMemsetD16_v2", to, static_cast<unsigned short>(value), size_t(count)));
      else check(call("cuMemsetD32_v2", to, value, size_t(count)));
    } else {
      in >> b;
      if (width == 1) check(call("cuMemsetD8Async", to, static_cast<unsigned char>(value), size_t(count), stream(b)));
      else check(call("cuMemsetD32Async", to, value, size_t(count), stream(b)));
    }
  } else if (command == "copy") {
    std::string s, t;
    uint64_t ot, of, bytes;
    in >> a >> ot >> b >> of >> bytes >> s;
    const Buffer &to = buffer(a), &from = buffer(b);
    if (from.pinned) check(call("cuMemcpyHtoDAsync_v2", to.address + ot, reinterpret_cast<const void*>(from.address + of), size_t(bytes), stream(s)));
    else if (to.pinned) check(call("cuMemcpyDtoHAsync_v2", reinterpret_cast<void*>(to.address + ot), from.address + of, size_t(bytes), stream(s)));
    else check(call("cuMemcpyDtoDAsync_v2", to.address + ot, from.address + of, size_t(bytes), stream(s)));
  } else if (command == "cluster") {
    in >> cluster[0] >> cluster[1] >> cluster[2];
  } else if (command == "launch") {
    Config c{};
    std::string s;
    in >> a >> b >> c.grid[0] >> c.grid[1] >> c.grid[2] >> c.block[0] >> c.block[1] >> c.block[2] >> c.shared >> s;
    void* f = function(a, b);
    Arguments arguments(in);
    if (cluster[0]) {
      Attribute attribute{};
      attribute.id = 4;
      std::copy(cluster, cluster + 3, attribute.cluster);
      c.stream = stream(s);
      c.attributes = &attribute;
      c.count = 1;
      check(call("cuLaunchKernelEx", static_cast<const Config*>(&c), f, arguments.pointers.data(), static_cast<void**>(nullptr)));
    } else {
      check(call("cuLaunchKernel", f, c.grid[0], c.grid[1], c.grid[2], c.block[0], c.block[1], c.block[2], c.shared, stream(s), arguments.pointers.data(), static_cast<void**>(nullptr)));
    }
  } else if (command == "most") {
    int bytes;
    in >> a >> b >> bytes;
    check(call("cuFuncSetAttribute", function(a, b), 8, bytes));
  } else if (command == "attribute") {
    int which, value = 0;
    in >> a >> b >> which;
    check(call("cuFuncGetAttribute", &value, which, function(a, b)));
    return "ok " + std::to_string(value);
  } else if (command == "stream") {
    unsigned flags;
    in >> a >> flags;
    check(call("cuStreamCreate", &streams[a], flags));
  } else if (command == "sync") {
    in >> a;
    check(call("cuStreamSynchronize", stream(a)));
  } else if (command == "query") {
    in >> a;
    check(call("cuStreamQuery", stream(a)));
  } else if (command == "destroy") {
    in >> a;
    check(call("cuStreamDestroy_v2", stream(a)));
  } else if (command == "synchronize") {
    check(call("cuCtxSynchronize"));
  } else if (command == "event") {
    in >> a;
    check(call("cuEventCreate", &events[a], 0u));
  } else if (command == "record") {
    in >> a >> b;
    check(call("cuEventRecord", find(events, a), stream(b)));
  } else if (command == "await") {
    in >> a >> b;
    check(call("cuStreamWaitEvent", stream(a), find(events, b), 0u));
  } else if (command == "wait") {
    in >> a;
    check(call("cuEventSynchronize", find(events, a)));
  } else if (command == "done") {
    in >> a;
    check(call("cuEventQuery", find(events, a)));
  } else if (command == "elapsed") {
    in >> a >> b;
    float ms = 0;
    check(call("cuEventElapsedTime", &ms, find(events, a), find(events, b)));
    return "ok " + std::to_string(ms);
  } else if (command == "sleep") {
    int ms;
    in >> a >> ms;
    const auto f = [](void* p) {
      Sleep* s = static_cast<Sleep*>(p);
      std::this_thread::sleep_for(std::chrono::milliseconds(s->ms));
    };
    check(call("cuLaunchHostFunc", stream(a), static_cast<void (*)(void*)>(f), static_cast<void*>(new Sleep{ms})));
  } else if (command == "note") {
    in >> a >> b;
    const auto f = [](void* p) {
      std::lock_guard lock(notesMutex);
      notes += static_cast<Note*>(p)->text;
    };
    check(call("cuLaunchHostFunc", stream(a), static_cast<void (*)(void*)>(f), static_cast<void*>(new Note{b})));
  } else if (command == "notes") {
    std::lock_guard lock(notesMutex);
    return "ok " + notes;
  } else if (command == "capture") {
    in >> a;
    check(call("cuStreamBeginCapture_v2", stream(a), 0));
  } else if (command == "endcapture") {
    in >> a >> b;
    check(call("cuStreamEndCapture", stream(a), &graphs[b]));
  } else if (command == "nodes") {
    in >> a;
    size_t n = 0;
    check(call("cuGraphGetNodes", find(graphs, a), static_cast<void**>(nullptr), &n));
    return "ok " + std::to_string(n);
  } else if (command == "instantiate") {
    in >> a >> b;
    check(call("cuGraphInstantiateWithFlags", &execs[b], find(graphs, a), 0ull));
  } else if (command == "replay") {
    in >> a >> b;
    check(call("cuGraphLaunch", find(execs, a), stream(b)));
  } else if (command == "patch") {
    std::string x, g;
    size_t index;
    KernelNode node{};
    in >> x >> g >> index >> a >> b;
    for (uint32_t& v : node.grid) in >> v;
    for (uint32_t& v : node.block) in >> v;
    in >> node.shared;
    node.function = function(a, b);
    Arguments arguments(in);
    node.parameters = arguments.pointers.data();
    std::vector<void*> nodes(64);
    size_t n = nodes.size();
    check(call("cuGraphGetNodes", find(graphs, g), nodes.data(), &n));
    check(call("cuGraphExecKernelNodeSetParams_v2", find(execs, x), nodes.at(index), static_cast<const KernelNode*>(&node)));
  } else if (command == "tensormap") {
    std::string type, address, dims, strides, box, steps;
    uint32_t rank;
    int interleave, swizzle, l2, fill;
    in >> a >> type >> rank >> address >> dims >> strides >> box >> steps >> interleave >> swizzle >> l2 >> fill;
    const std::vector<uint64_t> d = list(dims), s = strides == "-" ? std::vector<uint64_t>{} : list(strides);
    std::vector<uint32_t> bx, st;
    for (const uint64_t v : list(box)) bx.push_back(uint32_t(v));
    for (const uint64_t v : list(steps)) st.push_back(uint32_t(v));
    alignas(64) uint8_t map[128];
    check(call("cuTensorMapEncodeTiled", static_cast<void*>(map), std::stoi(type), rank, reinterpret_cast<void*>(addressOf(address)), d.data(), s.data(),
               static_cast<const uint32_t*>(bx.data()), static_cast<const uint32_t*>(st.data()), interleave, swizzle, l2, fill));
    tensorMaps[a].assign(map, map + 128);
  } else if (command == "context") {
    check(call("cuDevicePrimaryCtxReset_v2", 0));
    void* context = nullptr;
    check(call("cuDevicePrimaryCtxRetain", &context, 0));
    check(call("cuCtxSetCurrent", context));
    modules.clear();
    functions.clear();
    buffers.clear();
    streams.clear();
  } else if (command == "fault") {
    const char* text = "";
    check(call("cuTuttiGetLastFault", &text));
    std::string s = text;
    for (char& c : s)
      if (c == '\n') c = '|';
    return "ok " + s;
  } else if (command == "device") {
    char name[100];
    check(call("cuDeviceGetName", static_cast<char*>(name), 100, 0));
    int major = 0, minor = 0;
    check(call("cuDeviceGetAttribute", &major, 75, 0));
    check(call("cuDeviceGetAttribute", &minor, 76, 0));
    return "ok " + std::string(name) + " " + std::to_string(major) + "." + std::to_string(minor);
  } else if (command == "procs") {
    // Which of the names have an entry point behind cuGetProcAddress
    std::string missing;
    while (in >> a) {
      void* p = nullptr;
      int status = 0;
      call("cuGetProcAddress_v2", a.c_str(), &p, 12000, uint64_t(0), &status);
      if (!p || status) missing += " " + a;
    }
    return "ok" + missing;
  } else {
    throw "error -1 unknown command " + command;
  }
  return "ok";
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: virtual_cuda_runner LIBRARY < COMMANDS\n");
    return 2;
  }
  library = dlopen(arguments[1], RTLD_NOW);
  if (!library) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  try {
    check(call("cuInit", 0u));
    void* context = nullptr;
    check(call("cuDevicePrimaryCtxRetain", &context, 0));
    check(call("cuCtxSetCurrent", context));
  } catch (const std::string& e) {
    std::fprintf(stderr, "%s\n", e.c_str());
    return 2;
  }
  std::string line;
  while (std::getline(std::cin, line)) {
    if (line.empty()) continue;
    std::string answer;
    try {
      answer = run(line);
    } catch (const std::string& e) {
      answer = e;
    } catch (const std::exception& e) {
      answer = std::string("error -1 ") + e.what();
    }
    for (char& c : answer)
      if (c == '\n') c = '|';
    std::printf("%s\n", answer.c_str());
    std::fflush(stdout);
  }
  std::fflush(stdout);
  std::_Exit(0);
}
