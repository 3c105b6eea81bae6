// Device and page-locked memory; copies and fills, synchronous and on streams.
#include <cstring>

#include "driver.h"

using namespace vcuda;

namespace {

bool inDevice(const Context& c, uint64_t address, uint64_t bytes) {
  Allocation a;
  return c.memory.find(address, a) && bytes <= a.address + a.bytes - address;
}

bool isPinned(const Context& c, const void* host, uint64_t bytes) {
  Allocation a;
  return c.memory.find(uint64_t(host), a) && !a.device && bytes <= a.address + a.bytes - uint64_t(host);
}

int wait(Context& c, const std::shared_ptr<Stream>& s) {
  Pending last;
  {
    std::lock_guard lock(c.mutex);
    last = s->last;
  }
  if (last) last->wait();
  return c.stuck.load();
}

enum class Direction { ToDevice, ToHost, Within };

int copy(uint64_t to, uint64_t from, uint64_t bytes, Direction direction, const void* streamHandle, bool synchronous) {
  Context* c;
  if (const int e = enter(c)) return e;
  const std::shared_ptr<Stream> s = findStream(*c, streamHandle);
  if (!s) return kInvalidHandle;
  if (bytes == 0) return kSuccess;
  if (direction != Direction::ToDevice && !inDevice(*c, from, bytes)) return kInvalidValue;
  if (direction != Direction::ToHost && !inDevice(*c, to, bytes)) return kInvalidValue;
  if ((direction == Direction::ToDevice && !from) || (direction == Direction::ToHost && !to)) return kInvalidValue;
  Work w;
  w.kind = Work::Kind::Copy;
  w.to = to;
  w.from = from;
  w.bytes = bytes;
  w.fromHost = direction == Direction::ToDevice;
  w.toHost = direction == Direction::ToHost;
  bool block = synchronous;
  const bool isCapturing = capturing(*s);
  if (isCapturing && synchronous) return kCaptureImplicit;
  if (!isCapturing && direction == Direction::ToDevice && !isPinned(*c, reinterpret_cast<void*>(from), bytes)) {
    // Pageable memory is taken before the call returns.
    w.staged = std::make_shared<std::vector<uint8_t>>(bytes);
    std::memcpy(w.staged->data(), reinterpret_cast<void*>(from), bytes);
  }
  if (!isCapturing && direction == Direction::ToHost && !isPinned(*c, reinterpret_cast<void*>(to), bytes)) block = true;
  if (const int e = submit(*c, s, std::move(w))) return e;
  return block ? wait(*c, s) : kSuccess;
}

int fill(uint64_t to, uint32_t value, uint32_t elementBytes, uint64_t count, const void* streamHandle, bool synchronous) {
  Context* c;
  if (const int e = enter(c)) return e;
  const std::shared_ptr<Stream> s = findStream(*c, streamHandle);
  if (!s) return kInvalidHandle;
  if (count == 0) return kSuccess;
  if (to % elementBytes || !inDevice(*c, to, count * elementBytes)) return kInvalidValue;
  Work w;
  w.kind = Work::Kind::Fill;
  w.to = to;
  w.value = value;
  w.elementBytes = elementBytes;
  w.bytes = count * elementBytes;
  if (const int e = submit(*c, s, std::move(w))) return e;
  return synchronous ? wait(*c, s) : kSuccess;
}

}  // namespace

API int cuMemGetInfo_v2(size_t* free, size_t* total) {
  Context* c;
  if (const int e = enter(c)) return e;
  if (free) *free = c->memory.total - c->memory.used();
  if (total) *total = c->memory.total;
  return kSuccess;
}

API int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  Context* c;
  if (const int e = enter(c)) return e;
  if (!address || bytes == 0) return kInvalidValue;
  *address = c->memory.allocate(bytes, "cuMemAlloc");
  return *address ? kSuccess : kOutOfMemory;
}

API int cuMemFree_v2(uint64_t address) {
  Context* c;
  if (const int e = enter(c)) return e;
  if (!address) return kSuccess;
  // As on CUDA, freeing waits for the device.
  std::vector<Pending> all;
  {
    std::lock_guard lock(c->mutex);
    for (const auto& [h, s] : c->streams)
      if (s->last) all.push_back(s->last);
    if (c->legacy && c->legacy->last) all.push_back(c->legacy->last);
  }
  for (const Pending& p : all) p->wait();
  return c->memory.release(address, true) ? kSuccess : kInvalidValue;
}

API int cuMemAllocHost_v2(void** host, size_t bytes) {
  Context* c;
  if (const int e = enter(c)) return e;
  if (!host || bytes == 0) return kInvalidValue;
  *host = c->memory.allocateHost(bytes);
  return *host ? kSuccess : kOutOfMemory;
}
API int cuMemHostAlloc(void** host, size_t bytes, unsigned) { return cuMemAllocHost_v2(host, bytes); }

API int cuMemFreeHost(void* host) {
  Context* c;
  if (const int e = enter(c)) return e;
  if (!host) return kSuccess;
  return c->memory.release(uint64_t(host), false) ? kSuccess : kInvalidValue;
}

API int cuMemHostRegister_v2(void* host, size_t bytes, unsigned) {
  Context* c;
  if (const int e = enter(c)) return e;
  if (!host || bytes == 0) return kInvalidValue;
  return c->memory.registerHost(host, bytes) ? kSuccess : 712;  // HOST_MEMORY_ALREADY_REGISTERED
}
API int cuMemHostUnregister(void* host) {
  Context* c;
  if (const int e = enter(c)) return e;
  return c->memory.release(uint64_t(host), false) ? kSuccess : 713;  // HOST_MEMORY_NOT_REGISTERED
}
API int cuMemHostGetDevicePointer_v2(uint64_t* address, void* host, unsigned) {
  Context* c;
  if (const int e = enter(c)) return e;
  if (!isPinned(*c, host, 1)) return kInvalidValue;
  *address = uint64_t(host);
  return kSuccess;
}

API int cuMemGetAddressRange_v2(uint64_t* base, size_t* bytes, uint64_t address) {
  Context* c;
  if (const int e = enter(c)) return e;
  Allocation a;
  if (!c->memory.find(address, a)) return kNotFound;
  if (base) *base = a.address;
  if (bytes) *bytes = a.bytes;
  return kSuccess;
}

API int cuPointerGetAttribute(void* data, int attribute, uint64_t address) {
  Context* c;
  if (const int e = enter(c)) return e;
  Allocation a;
  if (!c->memory.find(address, a)) return kInvalidValue;
  switch (attribute) {
    case 1: *static_cast<Context**>(data) = c; return kSuccess;                           // CONTEXT
    case 2: *static_cast<unsigned*>(data) = a.device ? 2 : 1; return kSuccess;            // MEMORY_TYPE
    case 3: *static_cast<uint64_t*>(data) = address; return kSuccess;                     // DEVICE_POINTER
    case 4:                                                                               // HOST_POINTER
      if (a.device) return kInvalidValue;
      *static_cast<uint64_t*>(data) = address;
      return kSuccess;
    case 9: *static_cast<int*>(data) = 0; return kSuccess;                                // DEVICE_ORDINAL
    case 11: *static_cast<uint64_t*>(data) = a.address; return kSuccess;                  // RANGE_START_ADDR
    case 12: *static_cast<size_t*>(data) = a.bytes; return kSuccess;                      // RANGE_SIZE
    default: return kNotSupported;
  }
}

API int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t n) { return copy(to, uint64_t(from), n, Direction::ToDevice, nullptr, true); }
API int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t n) { return copy(uint64_t(to), from, n, Direction::ToHost, nullptr, true); }
API int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t n) { return copy(to, from, n, Direction::Within, nullptr, false); }
API int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t n, void* s) { return copy(to, uint64_t(from), n, Direction::ToDevice, s, false); }
API int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t n, void* s) { return copy(uint64_t(to), from, n, Direction::ToHost, s, false); }
API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, void* s) { return copy(to, from, n, Direction::Within, s, false); }

API int cuMemsetD8_v2(uint64_t to, unsigned char v, size_t n) { return fill(to, v, 1, n, nullptr, true); }
API int cuMemsetD16_v2(uint64_t to, unsigned short v, size_t n) { return fill(to, v, 2, n, nullptr, true); }
API int cuMemsetD32_v2(uint64_t to, unsigned v, size_t n) { return fill(to, v, 4, n, nullptr, true); }
API int cuMemsetD8Async(uint64_t to, unsigned char v, size_t n, void* s) { return fill(to, v, 1, n, s, false); }
API int cuMemsetD16Async(uint64_t to, unsigned short v, size_t n, void* s) { return fill(to, v, 2, n, s, false); }
API int cuMemsetD32Async(uint64_t to, unsigned v, size_t n, void* s) { return fill(to, v, 4, n, s, false); }
