// Threads that share the work of our own ops.

#ifndef ANNEAL_HELPERS_H_
#define ANNEAL_HELPERS_H_

#include <cstdint>
#include <functional>

namespace anneal {

// Runs work(index) for every index in [0, count), here and on as many threads as the process may run on. They stay awake for a
// moment after each call, since the next usually follows at once; nobody waits for one that has not begun. Safe to call from
// several threads: one of them gets the helpers, the others work alone.
void RunWithHelpers(int64_t count, const std::function<void(int64_t)> &work);

// The same, here alone where all of it goes over so few `values` that waking a helper takes longer.
void ForEach(int64_t count, int64_t values, const std::function<void(int64_t)> &work);

}  // namespace anneal

#endif  // ANNEAL_HELPERS_H_
