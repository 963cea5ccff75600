#include "heap.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>
#include <unordered_set>

#ifdef __linux__
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace anneal {

#ifdef __linux__
namespace {

// What glibc reserves at a time for threads but the first, and where the reservations begin.
constexpr uintptr_t kRegion = 64 << 20;

uintptr_t CurrentEnd() { return reinterpret_cast<uintptr_t>(sbrk(0)); }

// It is a wish: where it cannot be granted, or nothing is mapped, nothing happens.
void Advise(uintptr_t begin, uintptr_t end) {
  if (begin < end) madvise(reinterpret_cast<void *>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace

void TuneHeap() {
  // Tensors of many megabytes come and go with every op. glibc would map and unmap each, and the page faults cost more
  // than the arithmetic of an elementwise op: keep freed memory, in one arena that all of TensorFlow's threads share.
  if (!mallopt(M_MMAP_THRESHOLD, 1 << 30)) mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
  mallopt(M_ARENA_MAX, 1);
}

void UseLargePages(const void *data, size_t bytes) {
  static std::mutex mutex;
  static std::unordered_set<uintptr_t> known;
  static uintptr_t heap_end = 0;
  static const uintptr_t page = sysconf(_SC_PAGESIZE);
  const std::lock_guard<std::mutex> lock(mutex);
  // The first thread's part of the heap grows at its end, and what it grows by is not what was asked for before.
  const uintptr_t end = CurrentEnd() / page * page;
  if (heap_end != 0) Advise(heap_end, end);
  heap_end = end;
  const uintptr_t from = reinterpret_cast<uintptr_t>(data);
  for (uintptr_t region = from / kRegion; region * kRegion < from + bytes; region++)
    if (known.insert(region).second) Advise(region * kRegion, (region + 1) * kRegion);
}
#else
void TuneHeap() {}
void UseLargePages(const void *, size_t) {}
#endif

namespace {

#ifdef __linux__
void *Map(size_t bytes) {
  void *block = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) throw std::bad_alloc();
  Advise(reinterpret_cast<uintptr_t>(block), reinterpret_cast<uintptr_t>(block) + bytes);
  return block;
}
void Unmap(void *block, size_t bytes) { munmap(block, bytes); }
#else
constexpr std::align_val_t kLine{64};
void *Map(size_t bytes) { return ::operator new(bytes, kLine); }
void Unmap(void *block, size_t) { ::operator delete(block, kLine); }
#endif

class Blocks {
 public:
  static Blocks &Get() {
    // Never destroyed: tensors may be freed after main.
    static Blocks *blocks = new Blocks();
    return *blocks;
  }

  void *Take(size_t bytes) {
    constexpr size_t kUnit = 1 << 16;
    bytes = (std::max<size_t>(bytes, 1) + kUnit - 1) / kUnit * kUnit;
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto fitting = free_.lower_bound(bytes);
    if (fitting != free_.end() && fitting->first <= bytes + bytes / 4) {
      void *block = fitting->second;
      used_bytes_ += fitting->first, free_bytes_ -= fitting->first;
      free_.erase(fitting);
      return block;
    }
    most_bytes_ = std::max(most_bytes_, used_bytes_ + bytes);
    while (!free_.empty() && used_bytes_ + free_bytes_ + bytes > most_bytes_ + most_bytes_ / 8 + kSpare) {
      const auto largest = std::prev(free_.end());
      Unmap(largest->second, largest->first);
      sizes_.erase(largest->second);
      free_bytes_ -= largest->first;
      free_.erase(largest);
    }
    void *block = Map(bytes);
    sizes_[block] = bytes;
    used_bytes_ += bytes;
    return block;
  }

  void Give(void *block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t bytes = sizes_.at(block);
    used_bytes_ -= bytes, free_bytes_ += bytes;
    free_.emplace(bytes, block);
  }

 private:
  // Not all sizes are in use at a time.
  static constexpr size_t kSpare = 32 << 20;

  std::mutex mutex_;
  std::unordered_map<void *, size_t> sizes_;
  std::multimap<size_t, void *> free_;
  size_t used_bytes_ = 0, free_bytes_ = 0, most_bytes_ = 0;
};

}  // namespace

void *TakeBlock(size_t bytes) { return Blocks::Get().Take(bytes); }
void GiveBlock(void *block) { Blocks::Get().Give(block); }

}  // namespace anneal
