// Memory-mapped files: weights of an artifact are used where they lie.
#include "files.h"

#include <cerrno>
#include <cstring>
#include <string>

#ifndef _WIN32
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace tutti {
namespace {

[[noreturn]] void Fail(Napi::Env env, const std::string& path, const char* code, const std::string& reason) {
  Napi::Error error = Napi::Error::New(env, path + ": " + reason);
  error.Set("code", Napi::String::New(env, code));
  throw error;
}

Napi::Value Map(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string path = info[0].As<Napi::String>();
#ifdef _WIN32
  Fail(env, path, "ENOSYS", "files are not mapped on this platform");
#else
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) Fail(env, path, errno == ENOENT ? "ENOENT" : "EIO", std::strerror(errno));
  struct stat facts {};
  if (fstat(file, &facts) != 0 || !S_ISREG(facts.st_mode) || facts.st_size == 0) {
    close(file);
    Fail(env, path, "EINVAL", "not a file with content");
  }
  const auto size = static_cast<size_t>(facts.st_size);
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  const int reason = errno;
  close(file);
  if (memory == MAP_FAILED) Fail(env, path, "EIO", std::strerror(reason));
  return Napi::ArrayBuffer::New(env, memory, size, [size](Napi::Env, void* data) { munmap(data, size); });
#endif
}

}  // namespace

Napi::Object InitFiles(Napi::Env env) {
  Napi::Object files = Napi::Object::New(env);
  files.Set("map", Napi::Function::New(env, Map, "map"));
  return files;
}

}  // namespace tutti
