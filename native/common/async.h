// Off-thread work that JavaScript sees as a promise. Two forms, one error type:
//
//   runAsync    work of bounded length on libuv's pool (loading, compiling, copying)
//   Completion  a promise that a driver's own thread settles (waiting for a device: a fence may take seconds, and
//               libuv has four threads for the whole process, file system included, so it must not wait there);
//               many of them share a Channel, because making one takes longer than a small run
//
// Lambdas that run off-thread must not touch Napi values; keep those alive with a Napi::Reference held by `result`.

#pragma once

#include <napi.h>

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "error.h"

namespace tutti {

/** The JavaScript error for `error`: an `Error` whose `code` is that of tutti::Error, or `internal`. */
inline Napi::Error toJsError(Napi::Env env, const std::exception& error) {
  const auto* coded = dynamic_cast<const Error*>(&error);
  Napi::Error js = Napi::Error::New(env, error.what());
  js.Set("code", Napi::String::New(env, coded ? coded->code() : "internal"));
  return js;
}

/** Same, for an exception that travelled from another thread. */
inline Napi::Error toJsError(Napi::Env env, const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return toJsError(env, e);
  } catch (...) {
    return toJsError(env, Error("internal", "unknown native exception"));
  }
}

/** Runs a synchronous binding's body and turns a C++ exception into a JavaScript one that carries `code`. */
template <class Body>
auto guarded(Napi::Env env, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::exception& e) {
    throw toJsError(env, e);
  }
}

namespace detail {

struct Nothing {};

template <class T>
using Stored = std::conditional_t<std::is_void_v<T>, Nothing, T>;

/** Settles `deferred` on the JavaScript thread with `result(env[, value])`, or with the exception that it throws. */
template <class T, class Result>
void settle(Napi::Env env, Napi::Promise::Deferred& deferred, std::exception_ptr error, std::optional<Stored<T>>& value,
            Result& result) {
  if (error) {
    deferred.Reject(toJsError(env, error).Value());
    return;
  }
  try {
    if constexpr (std::is_void_v<T>) {
      deferred.Resolve(result(env));
    } else {
      deferred.Resolve(result(env, std::move(*value)));
    }
  } catch (const Napi::Error& e) {
    deferred.Reject(e.Value());
  } catch (const std::exception& e) {
    deferred.Reject(toJsError(env, e).Value());
  }
}

template <class T, class Work, class Result>
class PromiseWorker final : public Napi::AsyncWorker {
 public:
  PromiseWorker(Napi::Env env, Work work, Result result)
      : Napi::AsyncWorker(env, "tutti"),
        deferred_(Napi::Promise::Deferred::New(env)),
        work_(std::move(work)),
        result_(std::move(result)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      if constexpr (std::is_void_v<T>) {
        work_();
      } else {
        value_.emplace(work_());
      }
    } catch (...) {
      error_ = std::current_exception();
    }
  }

  void OnOK() override {
    Napi::HandleScope scope(Env());
    settle<T>(Env(), deferred_, error_, value_, result_);
  }

 private:
  Napi::Promise::Deferred deferred_;
  Work work_;
  Result result_;
  std::optional<Stored<T>> value_;
  std::exception_ptr error_;
};

}  // namespace detail

/**
 * Runs `work()` on libuv's pool and returns a promise of `result(env, value)`, called on the JavaScript thread with
 * what `work` returned (`result(env)` where it returns nothing). What `work` throws rejects the promise.
 */
template <class Work, class Result>
Napi::Promise runAsync(Napi::Env env, Work work, Result result) {
  using T = std::invoke_result_t<Work>;
  auto* worker = new detail::PromiseWorker<T, Work, Result>(env, std::move(work), std::move(result));
  Napi::Promise promise = worker->promise();
  worker->Queue();  // deletes itself after OnOK
  return promise;
}

/** Same, for work without a value: the promise resolves to undefined. */
template <class Work>
Napi::Promise runAsync(Napi::Env env, Work work) {
  static_assert(std::is_void_v<std::invoke_result_t<Work>>, "work returns a value: say how it becomes a Napi::Value");
  return runAsync(env, std::move(work), [](Napi::Env e) { return e.Undefined(); });
}

/**
 * The way from any thread to JavaScript's: what is posted is called there, one after the other. The process lives on
 * while something is awaited.
 */
class Channel : public std::enable_shared_from_this<Channel> {
 public:
  using Message = std::function<void(Napi::Env)>;

  /** On the JavaScript thread. */
  static std::shared_ptr<Channel> create(Napi::Env env) { return std::shared_ptr<Channel>(new Channel(env)); }
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  ~Channel() {
    std::lock_guard lock(gate_->mutex);
    if (gate_->open) function_.Release();
  }

  /** On the JavaScript thread: whether all that was awaited has come. */
  bool isQuiet() const { return awaited_ == 0; }
  /** On the JavaScript thread: a message is going to be posted. */
  void await(Napi::Env env) {
    if (awaited_++ == 0) function_.Ref(env);
  }
  /**
   * From any thread. When the environment goes away first, `message` is neither called nor destroyed, as it may hold
   * JavaScript handles.
   */
  void post(Message message) {
    auto* posted = new Posted{shared_from_this(), std::move(message)};
    std::lock_guard lock(gate_->mutex);
    if (gate_->open) function_.NonBlockingCall(posted);
  }

 private:
  struct Posted {
    std::shared_ptr<Channel> channel;
    Message message;
  };
  /** Closes when the environment takes the function away. */
  struct Gate {
    std::mutex mutex;
    bool open = true;
  };

  static void onJsThread(Napi::Env env, Napi::Function, std::nullptr_t*, Posted* posted) {
    if (env == nullptr) return;  // nobody is left to tell
    const std::unique_ptr<Posted> owned(posted);
    Napi::HandleScope scope(env);
    if (--owned->channel->awaited_ == 0) owned->channel->function_.Unref(env);
    try {
      owned->message(env);
    } catch (const Napi::Error&) {
      // A worker that is being terminated runs no JavaScript any more.
    }
  }

  using Function = Napi::TypedThreadSafeFunction<std::nullptr_t, Posted, onJsThread>;

  explicit Channel(Napi::Env env)
      : gate_(std::make_shared<Gate>()),
        function_(Function::New(
            env, "tutti", 0, 1, static_cast<std::nullptr_t*>(nullptr),
            [](Napi::Env, std::shared_ptr<Gate>* data, std::nullptr_t*) {
              const std::unique_ptr<std::shared_ptr<Gate>> gate(data);
              std::lock_guard lock((*gate)->mutex);
              (*gate)->open = false;
            },
            new std::shared_ptr<Gate>(gate_))) {
    function_.Unref(env);
  }

  const std::shared_ptr<Gate> gate_;
  Function function_;
  /** Of JavaScript's thread. */
  uint64_t awaited_ = 0;
};

/**
 * A promise that any thread settles, once; later calls do nothing. Dropping it unsettled rejects with `abandoned`.
 * A pending one keeps the process alive, as a pending file read would.
 *
 *   auto done = Completion::create(env);
 *   std::thread([done] { wait(); done->resolve(); });
 *   return done->promise();
 */
class Completion {
 public:
  /** On the JavaScript thread. `result` makes the resolved value there, and may hold Napi references. */
  template <class Result>
  static std::shared_ptr<Completion> create(Napi::Env env, Result result, std::shared_ptr<Channel> channel = nullptr) {
    if (channel == nullptr) channel = Channel::create(env);
    return std::shared_ptr<Completion>(new Completion(env, std::move(result), std::move(channel)));
  }
  static std::shared_ptr<Completion> create(Napi::Env env) {
    return create(env, [](Napi::Env e) -> Napi::Value { return e.Undefined(); });
  }

  Completion(const Completion&) = delete;
  Completion& operator=(const Completion&) = delete;

  ~Completion() { settle(std::make_exception_ptr(Error("abandoned", "the device was closed before the work ended"))); }

  /** Only within the native call that created it. */
  Napi::Promise promise() const { return state_->deferred.Promise(); }

  void resolve() { settle(nullptr); }
  void reject(const Error& error) { settle(std::make_exception_ptr(error)); }
  void reject(std::exception_ptr error) { settle(std::move(error)); }

 private:
  struct State {
    Napi::Promise::Deferred deferred;
    std::function<Napi::Value(Napi::Env)> result;
  };

  template <class Result>
  Completion(Napi::Env env, Result result, std::shared_ptr<Channel> channel)
      : state_(new State{Napi::Promise::Deferred::New(env), std::move(result)}), channel_(std::move(channel)) {
    channel_->await(env);
  }

  void settle(std::exception_ptr error) {
    if (settled_.exchange(true)) return;
    // The state goes with the message: it may hold Napi references, and the last owner of this may be another thread.
    channel_->post([state = std::move(state_), error = std::move(error)](Napi::Env env) {
      std::optional<detail::Nothing> none;
      detail::settle<void>(env, state->deferred, error, none, state->result);
    });
  }

  std::atomic<bool> settled_{false};
  std::shared_ptr<State> state_;
  const std::shared_ptr<Channel> channel_;
};

}  // namespace tutti
