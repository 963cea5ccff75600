// Numbers that begin where a line of the processor's cache does: a vector that lies across two lines is read twice.

#ifndef ANNEAL_CACHE_LINES_H_
#define ANNEAL_CACHE_LINES_H_

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace anneal {

template <typename T>
struct CacheLineAllocator {
  using value_type = T;

  CacheLineAllocator() = default;
  template <typename U>
  CacheLineAllocator(const CacheLineAllocator<U> &) {}

  T *allocate(size_t count) { return static_cast<T *>(::operator new(count * sizeof(T), kLine)); }
  void deallocate(T *values, size_t) { ::operator delete(values, kLine); }

  bool operator==(const CacheLineAllocator &) const { return true; }
  bool operator!=(const CacheLineAllocator &) const { return false; }

 private:
  static constexpr std::align_val_t kLine{64};
};

using Floats = std::vector<float, CacheLineAllocator<float>>;
using Halves = std::vector<uint16_t, CacheLineAllocator<uint16_t>>;

}  // namespace anneal

#endif  // ANNEAL_CACHE_LINES_H_
