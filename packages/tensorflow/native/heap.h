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

// Memory of some megabytes and more that comes and goes with every pass, apart from the heap, which it would tear up: between two passes
// small tensors settle where large ones were, and those need new room. What is given back is kept for those who ask next; together it is
// hardly more than was in use at once. Not zero, and begins at a cache line.
void *TakeBlock(size_t bytes);
void GiveBlock(void *block);

}  // namespace anneal

#endif  // ANNEAL_HEAP_H_
