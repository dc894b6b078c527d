// What the headers of all instruction sets need.
#pragma once
#include <cstdint>
#include <cstring>

#define TL_INLINE static inline __attribute__((always_inline))
// Loops over registers must vanish: their bounds are constants.
#define TL_UNROLL _Pragma("GCC unroll 16")
