// A .pte in memory, ready to run: verified on loading, float32 tensors at its border, every buffer allocated once.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <executorch/extension/data_loader/mmap_data_loader.h>
#include <executorch/extension/memory_allocator/malloc_memory_allocator.h>
#include <executorch/extension/threadpool/threadpool_guard.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/runtime.h>

#include "edge_dp/error.hpp"

// The wheel holds the pool but not its header; these three are its exported functions.
#if __has_include(<executorch/extension/threadpool/threadpool.h>)
#include <executorch/extension/threadpool/threadpool.h>
#else
namespace executorch::extension::threadpool {
class ThreadPool final {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool
#endif

namespace edge_dp {

using Shape = std::vector<std::int32_t>;

inline std::size_t count_of(const Shape& shape) {
  std::size_t count = 1;
  for (std::int32_t size : shape) count *= static_cast<std::size_t>(size);
  return count;
}

inline std::string words_of(const Shape& shape) {
  std::string words = "(";
  for (std::int32_t size : shape) words += (words.size() > 1 ? ", " : "") + std::to_string(size);
  return words + ")";
}

// The method "forward" of one file. Not thread-safe: one object serves one thread at a time.
class Program {
 public:
  // Throws Error where the file is missing, damaged, or takes or gives anything but dense float32 tensors.
  // `threads` above 1 resizes ExecuTorch's pool, which the whole process shares.
  Program(const std::string& path, int threads, ::executorch::runtime::EventTracer* tracer = nullptr)
      : path_(path), threads_(threads) {
    if (threads < 1) throw Error(path + ": expected at least 1 thread, found " + std::to_string(threads));
    ::executorch::runtime::runtime_init();
    if (threads > 1) {
      auto* pool = ::executorch::extension::threadpool::get_threadpool();
      if (!pool || !pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads)))
        throw Error(path + ": no pool of " + std::to_string(threads) + " threads can be made");
    }
    Guard guard(threads);
    using Loader = ::executorch::extension::MmapDataLoader;
    auto loader = Loader::from(path.c_str(), Loader::MlockConfig::NoMlock);
    check(loader.error(), "be opened");
    loader_ = std::make_unique<Loader>(std::move(loader.get()));
    auto program = Program_::load(loader_.get(), Program_::Verification::InternalConsistency);
    check(program.error(), "be read: it is damaged or no .pte");
    program_ = std::make_unique<Program_>(std::move(program.get()));
    auto meta = program_->method_meta("forward");
    check(meta.error(), "be used: it has no method 'forward'");
    plan(meta.get());
    check_border(meta.get());
    manager_ = std::make_unique<::executorch::runtime::MemoryManager>(&method_allocator_, &*planned_, &temporary_allocator_);
    auto method = program_->load_method("forward", manager_.get(), tracer);
    check(method.error(), "be loaded");
    method_ = std::make_unique<::executorch::runtime::Method>(std::move(method.get()));
  }

  const std::vector<Shape>& inputs() const { return inputs_; }
  const std::vector<Shape>& outputs() const { return outputs_; }

  // Tensors that execute() reads, in order. It may overwrite its own copy, so call this before every execution;
  // the values must stay where they are until it ends.
  void set_inputs(const std::vector<const float*>& values) {
    if (values.size() != inputs_.size())
      throw Error(path_ + ": expected " + std::to_string(inputs_.size()) + " inputs, found " + std::to_string(values.size()));
    for (std::size_t index = 0; index < inputs_.size(); ++index) {
      ::executorch::runtime::etensor::TensorImpl tensor(
          ::executorch::runtime::etensor::ScalarType::Float, static_cast<ssize_t>(inputs_[index].size()), inputs_[index].data(),
          const_cast<float*>(values[index]), orders_[index].data());
      check(method_->set_input(::executorch::runtime::etensor::Tensor(&tensor), index), "take input " + std::to_string(index));
    }
  }

  void execute() {
    Guard guard(threads_);
    check(method_->execute(), "run");
  }

  // Values of an output, count_of(outputs()[index]) of them; the next execute() overwrites them.
  const float* output(std::size_t index) const {
    const auto& value = method_->get_output(index);
    if (!value.isTensor() || static_cast<std::size_t>(value.toTensor().numel()) != count_of(outputs_[index]))
      throw Error(path_ + ": output " + std::to_string(index) + ": expected shape " + words_of(outputs_[index]) +
                  ", found another");
    return value.toTensor().const_data_ptr<float>();
  }

 private:
  using Program_ = ::executorch::runtime::Program;

  // On one thread the calling thread does the work; a pool of one would hand it over and wait.
  class Guard {
   public:
    explicit Guard(int threads) { NoPool::set_enabled(threads == 1); }
    ~Guard() { NoPool::set_enabled(before_); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    using NoPool = ::executorch::extension::threadpool::NoThreadPoolGuard;
    bool before_ = NoPool::is_enabled();
  };

  void check(::executorch::runtime::Error error, const std::string& deed) const {
    if (error != ::executorch::runtime::Error::Ok)
      throw Error(path_ + ": cannot " + deed + " (ExecuTorch: " + ::executorch::runtime::to_string(error) + ")");
  }

  // Memory between the layers, as the exporter planned it. A damaged plan asks for more than any model here has use for.
  void plan(const ::executorch::runtime::MethodMeta& meta) {
    static constexpr std::int64_t most = std::int64_t(1) << 32;
    std::int64_t total = 0;
    for (std::size_t index = 0; index < meta.num_memory_planned_buffers(); ++index) {
      auto size = meta.memory_planned_buffer_size(index);
      check(size.error(), "be used: its memory plan is damaged");
      if (size.get() < 0 || size.get() > most || (total += size.get()) > most)
        throw Error(path_ + ": expected a memory plan of at most 4 GiB, found more: the file is damaged");
      buffers_.emplace_back(static_cast<std::size_t>(size.get()));
    }
    for (auto& buffer : buffers_) spans_.push_back({buffer.data(), buffer.size()});
    planned_.emplace(::executorch::runtime::Span<::executorch::runtime::Span<uint8_t>>(spans_.data(), spans_.size()));
  }

  void check_border(const ::executorch::runtime::MethodMeta& meta) {
    for (std::size_t index = 0; index < meta.num_inputs(); ++index) {
      auto tag = meta.input_tag(index);
      inputs_.push_back(shape_of(tag, meta.input_tensor_meta(index), "input " + std::to_string(index)));
      orders_.emplace_back();
      for (std::size_t axis = 0; axis < inputs_.back().size(); ++axis) orders_.back().push_back(static_cast<uint8_t>(axis));
    }
    for (std::size_t index = 0; index < meta.num_outputs(); ++index) {
      auto tag = meta.output_tag(index);
      auto info = meta.output_tensor_meta(index);
      outputs_.push_back(shape_of(tag, info, "output " + std::to_string(index)));
      if (!info->is_memory_planned())
        throw Error(path_ + ": output " + std::to_string(index) + ": expected memory planned by the exporter, found none");
    }
  }

  template <class Tag, class Info>
  Shape shape_of(const Tag& tag, const Info& info, const std::string& place) const {
    check(info.error(), "be used: " + place + " is no tensor");
    auto sizes = info->sizes();
    auto order = info->dim_order();
    std::size_t values = 1;
    bool dense = tag.ok() && info->scalar_type() == ::executorch::runtime::etensor::ScalarType::Float && sizes.size() <= 8;
    for (std::size_t axis = 0; dense && axis < sizes.size(); ++axis) {
      dense = sizes[axis] > 0 && axis < order.size() && order[axis] == axis;
      values *= dense ? static_cast<std::size_t>(sizes[axis]) : 1;
      dense = dense && values <= 0x7FFFFFFF;
    }
    if (!dense) throw Error(path_ + ": " + place + ": expected a dense float32 tensor, found another kind");
    return Shape(sizes.begin(), sizes.end());
  }

  std::string path_;
  int threads_;
  std::vector<Shape> inputs_, outputs_;
  std::vector<std::vector<uint8_t>> orders_, buffers_;
  std::vector<::executorch::runtime::Span<uint8_t>> spans_;
  // In the order in which they need each other; C++ destroys them the other way round.
  std::unique_ptr<::executorch::extension::MmapDataLoader> loader_;
  std::unique_ptr<Program_> program_;
  ::executorch::extension::MallocMemoryAllocator method_allocator_, temporary_allocator_;
  std::optional<::executorch::runtime::HierarchicalAllocator> planned_;
  std::unique_ptr<::executorch::runtime::MemoryManager> manager_;
  std::unique_ptr<::executorch::runtime::Method> method_;
};

}  // namespace edge_dp
