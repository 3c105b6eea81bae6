// Drives a Metal library (the virtual one) by commands from standard input, one per line, one answer line per command:
// `ok [value]` or `error TEXT`, line breaks in it as `\n`. It only sends messages, as a driver does.
//
//   device                                   name and limits
//   library L FILE [fast]                    newLibraryWithSource, with safe math unless `fast`
//   pipeline P L KERNEL [indirect]           newComputePipelineState
//   buffer B BYTES [private]                 newBufferWithLength | free B
//   put B OFFSET HEX | get B OFFSET BYTES    through its contents
//   run P GX GY GZ TX TY TZ ARG…             one command buffer with one dispatch; ARG: @B[+offset], bytes:HEX or -
//   begin [concurrent] | timed               a command buffer with a compute encoder (timed: with timestamps)
//   dispatch P GX GY GZ TX TY TZ ARG…        into it | barrier | use B… | indirect I FIRST COUNT
//   blit | copy FROM O TO O BYTES | fill B O BYTES VALUE
//   commit                                   ends, commits, waits | times: the two timestamps in nanoseconds
//   drop                                     releases the command buffer without committing it
//   commands I COUNT | command I INDEX P GX GY GZ TX TY TZ barrier|- @B…
//   archive FILE P… | openarchive FILE
//   set NAME VALUE                           an environment variable of the process
//   message CLASS SELECTOR                   to a class | overrelease B | touch B
//   live                                     objects that live
#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

using Id = void*;
using UInt = unsigned long;
struct Size {
  UInt w, h, d;
};
struct Range {
  UInt location, length;
};
using Words = std::vector<std::string>;

void* library = nullptr;
template <class F>
F* function(const char* name) {
  void* f = dlsym(library, name);
  if (!f) throw std::string("no function ") + name;
  return reinterpret_cast<F*>(f);
}
Id selector(const char* name) { return function<Id(const char*)>("sel_registerName")(name); }
Id type(const char* name) { return function<Id(const char*)>("objc_getClass")(name); }
template <class R = void, class... A>
R send(Id receiver, const char* name, A... arguments) {
  static void* const plain = dlsym(library, "objc_msgSend");
  static void* const memory = dlsym(library, "objc_msgSend_stret");
  return reinterpret_cast<R (*)(Id, Id, A...)>(sizeof(R*) && std::is_same_v<R, Size> && memory ? memory : plain)(
      receiver, selector(name), arguments...);
}
void release(Id object) { function<void(Id)>("objc_release")(object); }
Id string(const std::string& text) { return send<Id>(type("NSString"), "stringWithUTF8String:", text.c_str()); }
std::string textOf(Id s) { return s ? send<const char*>(s, "UTF8String") : ""; }
[[noreturn]] void fail(Id error) {
  throw std::to_string(send<long>(error, "code")) + " " + textOf(send<Id>(error, "domain")) + ": " +
      textOf(send<Id>(error, "localizedDescription"));
}

Id device = nullptr, queue = nullptr, commands = nullptr, encoder = nullptr, counters = nullptr;
std::map<std::string, Id> libraries, pipelines, buffers, indirects;
std::atomic<int> handled{0};

Id find(std::map<std::string, Id>& in, const std::string& name) {
  const auto it = in.find(name);
  if (it == in.end()) throw "no such name " + name;
  return it->second;
}
UInt number(const Words& w, size_t i) { return std::stoul(w.at(i)); }

std::vector<uint8_t> unhex(const std::string& text) {
  std::vector<uint8_t> v;
  for (size_t i = 0; i + 1 < text.size(); i += 2) v.push_back(uint8_t(std::stoi(text.substr(i, 2), nullptr, 16)));
  return v;
}
std::string hex(const uint8_t* p, size_t n) {
  std::string s(2 * n, '0');
  const char* digits = "0123456789abcdef";
  for (size_t i = 0; i < n; ++i) {
    s[2 * i] = digits[p[i] >> 4];
    s[2 * i + 1] = digits[p[i] & 15];
  }
  return s;
}
std::pair<Id, UInt> place(const std::string& text) {
  const size_t plus = text.find('+');
  return {find(buffers, text.substr(1, plus == std::string::npos ? plus : plus - 1)),
          plus == std::string::npos ? 0 : std::stoul(text.substr(plus + 1))};
}
Size three(const Words& w, size_t i) { return {number(w, i), number(w, i + 1), number(w, i + 2)}; }

struct BlockDescriptor {
  UInt reserved, size;
};
struct Block {
  void* isa;
  int flags, reserved;
  void (*invoke)(Block*, Id);
  const BlockDescriptor* descriptor;
  std::atomic<int>* counter;
};
constexpr BlockDescriptor kBlock = {0, sizeof(Block)};

void begin() {
  commands = send<Id>(queue, "commandBuffer");
  function<Id(Id)>("objc_retain")(commands);
  Block block = {dlsym(library, "_NSConcreteStackBlock"), 0, 0, [](Block* b, Id) { ++*b->counter; }, &kBlock, &handled};
  send(commands, "addCompletedHandler:", &block);
}
void keepEncoder(Id e) {
  encoder = e;
  function<Id(Id)>("objc_retain")(e);
}
void encode(bool concurrent) { keepEncoder(send<Id>(commands, "computeCommandEncoderWithDispatchType:", UInt(concurrent))); }
void dispatch(const Words& w) {
  send(encoder, "setComputePipelineState:", find(pipelines, w.at(1)));
  for (size_t i = 8; i < w.size(); ++i) {
    const UInt index = i - 8;
    if (w[i][0] == '@') {
      const auto [b, offset] = place(w[i]);
      send(encoder, "setBuffer:offset:atIndex:", b, offset, index);
    } else if (w[i].rfind("bytes:", 0) == 0) {
      const auto v = unhex(w[i].substr(6));
      send(encoder, "setBytes:length:atIndex:", v.data(), UInt(v.size()), index);
    } else {
      send(encoder, "setBuffer:offset:atIndex:", Id(nullptr), UInt(0), index);
    }
  }
  send(encoder, "dispatchThreadgroups:threadsPerThreadgroup:", three(w, 2), three(w, 5));
}
void endEncoder() {
  if (!encoder) return;
  send(encoder, "endEncoding");
  release(encoder);
  encoder = nullptr;
}
void commit() {
  endEncoder();
  const int before = handled;
  send(commands, "commit");
  send(commands, "waitUntilCompleted");
  if (handled != before + 1) throw std::string("the completed handler was not called");
  const UInt status = send<UInt>(commands, "status");
  Id error = send<Id>(commands, "error");
  if (status == 4 && (error || send<double>(commands, "GPUEndTime") < send<double>(commands, "GPUStartTime") ||
                      send<double>(commands, "GPUStartTime") <= 0))
    throw std::string("completed with an error or without times");
  release(commands);
  commands = nullptr;
  if (error) fail(error);
  if (status != 4) throw "status " + std::to_string(status);
}

std::string perform(const Words& w) {
  const std::string& c = w[0];
  Id error = nullptr;
  if (c == "device") {
    const Size threads = send<Size>(device, "maxThreadsPerThreadgroup");
    return textOf(send<Id>(device, "name")) + " " + std::to_string(threads.w) + "x" + std::to_string(threads.h) + "x" +
           std::to_string(threads.d) + " " + std::to_string(send<UInt>(device, "maxThreadgroupMemoryLength")) + " " +
           (send<bool>(device, "supportsFamily:", 1007L) ? "apple7" : "-") + " " +
           (send<bool>(device, "respondsToSelector:", selector("noSuchSelector")) ? "?" : "-");
  }
  if (c == "library") {
    std::ifstream in(w.at(2));
    std::stringstream text;
    text << in.rdbuf();
    Id options = send<Id>(type("MTLCompileOptions"), "new");
    send(options, "setFastMathEnabled:", w.size() > 3 && w[3] == "fast");
    Id l = send<Id>(device, "newLibraryWithSource:options:error:", string(text.str()), options, &error);
    release(options);
    if (!l) fail(error);
    libraries[w[1]] = l;
    return "";
  }
  if (c == "pipeline") {
    Id f = send<Id>(find(libraries, w.at(2)), "newFunctionWithName:", string(w.at(3)));
    if (!f) throw "no kernel " + w[3];
    Id d = send<Id>(type("MTLComputePipelineDescriptor"), "new");
    send(d, "setComputeFunction:", f);
    if (w.size() > 4) send(d, "setSupportIndirectCommandBuffers:", true);
    Id p = send<Id>(device, "newComputePipelineStateWithDescriptor:options:reflection:error:", d, UInt(0), (Id*)nullptr, &error);
    release(d);
    release(f);
    if (!p) fail(error);
    pipelines[w[1]] = p;
    return std::to_string(send<UInt>(p, "maxTotalThreadsPerThreadgroup")) + " " +
           std::to_string(send<UInt>(p, "staticThreadgroupMemoryLength"));
  }
  if (c == "buffer") {
    Id b = send<Id>(device, "newBufferWithLength:options:", number(w, 2), UInt(w.size() > 3 ? 2 << 4 : 0));
    if (!b) throw std::string("nil");
    send(b, "setLabel:", string(w[1]));
    if (w.size() > 3 && send<Id>(b, "contents")) throw std::string("private storage has contents");
    buffers[w[1]] = b;
    return "";
  }
  if (c == "free") {
    release(find(buffers, w.at(1)));
    buffers.erase(w[1]);
    return "";
  }
  if (c == "put" || c == "get") {
    Id b = find(buffers, w.at(1));
    auto* at = static_cast<uint8_t*>(send<Id>(b, "contents")) + number(w, 2);
    if (c == "get") return hex(at, number(w, 3));
    const auto v = unhex(w.at(3));
    std::memcpy(at, v.data(), v.size());
    return "";
  }
  if (c == "run") {
    find(pipelines, w.at(1));
    for (size_t i = 8; i < w.size(); ++i)
      if (w[i][0] == '@') place(w[i]);
    begin();
    encode(false);
    dispatch(w);
    commit();
    return "";
  }
  if (c == "begin") return begin(), encode(w.size() > 1), "";
  if (c == "timed") {
    Id d = send<Id>(type("MTLCounterSampleBufferDescriptor"), "new");
    send(d, "setCounterSet:", send<Id>(send<Id>(device, "counterSets"), "objectAtIndex:", UInt(0)));
    send(d, "setSampleCount:", UInt(2));
    counters = send<Id>(device, "newCounterSampleBufferWithDescriptor:error:", d, &error);
    release(d);
    if (!counters) fail(error);
    begin();
    Id pass = send<Id>(type("MTLComputePassDescriptor"), "new");
    Id attachment = send<Id>(send<Id>(pass, "sampleBufferAttachments"), "objectAtIndexedSubscript:", UInt(0));
    send(attachment, "setSampleBuffer:", counters);
    send(attachment, "setStartOfEncoderSampleIndex:", UInt(0));
    send(attachment, "setEndOfEncoderSampleIndex:", UInt(1));
    keepEncoder(send<Id>(commands, "computeCommandEncoderWithDescriptor:", pass));
    release(pass);
    return "";
  }
  if (c == "times") {
    uint64_t cpu0, gpu0, cpu1, gpu1;
    send(device, "sampleTimestamps:gpuTimestamp:", &cpu0, &gpu0);
    usleep(2000);
    send(device, "sampleTimestamps:gpuTimestamp:", &cpu1, &gpu1);
    Id data = send<Id>(counters, "resolveCounterRange:", Range{0, 2});
    if (send<UInt>(data, "length") != 16) throw std::string("not two samples");
    const auto* t = send<const uint64_t*>(data, "bytes");
    const double ns = double(t[1] - t[0]) * double(cpu1 - cpu0) / double(gpu1 - gpu0);
    release(counters);
    return std::to_string(long(ns));
  }
  if (c == "dispatch") return dispatch(w), "";
  if (c == "barrier") return send(encoder, "memoryBarrierWithScope:", UInt(1)), "";
  if (c == "use") {
    std::vector<Id> all;
    for (size_t i = 1; i < w.size(); ++i) all.push_back(find(buffers, w[i]));
    return send(encoder, "useResources:count:usage:", all.data(), UInt(all.size()), UInt(3)), "";
  }
  if (c == "indirect")
    return send(encoder, "executeCommandsInBuffer:withRange:", find(indirects, w.at(1)), Range{number(w, 2), number(w, 3)}), "";
  if (c == "blit") {
    if (!commands) begin();
    endEncoder();
    keepEncoder(send<Id>(commands, "blitCommandEncoder"));
    return "";
  }
  if (c == "copy") {
    send(encoder, "copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:", find(buffers, w.at(1)), number(w, 2),
         find(buffers, w.at(3)), number(w, 4), number(w, 5));
    return "";
  }
  if (c == "fill")
    return send(encoder, "fillBuffer:range:value:", find(buffers, w.at(1)), Range{number(w, 2), number(w, 3)},
                uint8_t(number(w, 4))),
           "";
  if (c == "commit") return commit(), "";
  if (c == "drop") return endEncoder(), release(commands), commands = nullptr, "";
  if (c == "commands") {
    Id d = send<Id>(type("MTLIndirectCommandBufferDescriptor"), "new");
    send(d, "setCommandTypes:", UInt(1 << 5));
    send(d, "setInheritBuffers:", false);
    send(d, "setInheritPipelineState:", false);
    send(d, "setMaxKernelBufferBindCount:", UInt(31));
    indirects[w.at(1)] =
        send<Id>(device, "newIndirectCommandBufferWithDescriptor:maxCommandCount:options:", d, number(w, 2), UInt(0));
    release(d);
    return "";
  }
  if (c == "command") {
    Id k = send<Id>(find(indirects, w.at(1)), "indirectComputeCommandAtIndex:", number(w, 2));
    send(k, "setComputePipelineState:", find(pipelines, w.at(3)));
    for (size_t i = 11; i < w.size(); ++i) {
      const auto [b, offset] = place(w[i]);
      send(k, "setKernelBuffer:offset:atIndex:", b, offset, UInt(i - 11));
    }
    if (w.at(10) == "barrier") send(k, "setBarrier");
    send(k, "concurrentDispatchThreadgroups:threadsPerThreadgroup:", three(w, 4), three(w, 7));
    return "";
  }
  if (c == "set") return setenv(w.at(1).c_str(), w.at(2).c_str(), 1), "";
  if (c == "message") return send(type(w.at(1).c_str()), w.at(2).c_str()), "";
  if (c == "overrelease") return release(find(buffers, w.at(1))), release(find(buffers, w[1])), "";
  if (c == "touch") return release(find(buffers, w.at(1))), std::to_string(send<UInt>(find(buffers, w[1]), "length"));
  if (c == "live") {
    char text[1024];
    function<long(char*, size_t)>("tuttiVirtualMetalLiveObjects")(text, sizeof text);
    return text;
  }
  if (c == "archive" || c == "openarchive") {
    Id d = send<Id>(type("MTLBinaryArchiveDescriptor"), "new");
    Id url = send<Id>(type("NSURL"), "fileURLWithPath:", string(w.at(1)));
    send(d, "setUrl:", c == "archive" ? Id(nullptr) : url);
    Id a = send<Id>(device, "newBinaryArchiveWithDescriptor:error:", d, &error);
    release(d);
    if (!a) fail(error);
    if (c == "archive") {
      Id p = send<Id>(type("MTLComputePipelineDescriptor"), "new");
      Id f = send<Id>(find(libraries, w.at(2)), "newFunctionWithName:", string(w.at(3)));
      send(p, "setComputeFunction:", f);
      release(f);
      const bool added = send<bool>(a, "addComputePipelineFunctionsWithDescriptor:error:", p, &error);
      release(p);
      if (!added || !send<bool>(a, "serializeToURL:error:", url, &error)) {
        release(a);
        fail(error);
      }
    }
    release(a);
    return "";
  }
  throw "unknown command " + c;
}

}  // namespace

int main(int argc, char** argv) {
  library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (!library) {
    std::fprintf(stderr, "%s\n", argc > 1 ? dlerror() : "usage: runner LIBRARY");
    return 2;
  }
  try {
    void* pool = function<void*()>("objc_autoreleasePoolPush")();
    Id all = function<Id()>("MTLCopyAllDevices")();
    device = send<Id>(all, "objectAtIndex:", UInt(0));
    function<Id(Id)>("objc_retain")(device);
    release(all);
    queue = send<Id>(device, "newCommandQueueWithMaxCommandBufferCount:", UInt(64));
    function<void(void*)>("objc_autoreleasePoolPop")(pool);
  } catch (const std::string& text) {
    std::fprintf(stderr, "%s\n", text.c_str());
    return 2;
  }
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream in(line);
    Words w;
    for (std::string word; in >> word;) w.push_back(word);
    if (w.empty()) continue;
    std::string answer;
    void* pool = function<void*()>("objc_autoreleasePoolPush")();
    try {
      const std::string value = perform(w);
      answer = value.empty() ? "ok" : "ok " + value;
    } catch (const std::string& text) {
      answer = "error " + text;
    } catch (const std::exception& e) {
      answer = std::string("error bad command: ") + e.what();
    }
    function<void(void*)>("objc_autoreleasePoolPop")(pool);
    std::string escaped;
    for (const char ch : answer) escaped += ch == '\n' ? "\\n" : std::string(1, ch);
    std::printf("%s\n", escaped.c_str());
    std::fflush(stdout);
  }
  return 0;
}
