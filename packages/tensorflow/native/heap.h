// How the process keeps the memory of its tensors.

#ifndef ANNEAL_HEAP_H_
#define ANNEAL_HEAP_H_

#include <cstddef>

namespace anneal {

// To be called once, before tensors are made.
void TuneHeap();

// Asks for large pages, where the system gives them on request, for the parts of the heap in which `bytes` at `data` lie: with small ones,
// finding a matrix's pages takes a tenth of the time of reading it. Of use before anything is written there.
void UseLargePages(const void *data, size_t bytes);

}  // namespace anneal

#endif  // ANNEAL_HEAP_H_
