#include "heap.h"

#include <cstdint>
#include <mutex>
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

}  // namespace anneal
