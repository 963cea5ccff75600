/**
 * Random numbers by position: the same key and counter always give the same number, whatever was drawn before. So a
 * sequence's draws do not depend on its neighbours in a batch, and an adapter's start does not depend on load order.
 */

/** 64-bit finaliser of SplitMix64 (Steele, Lea & Flood 2014), applied to `value`. */
function mix(value: bigint): bigint {
  let z = BigInt.asUintN(64, value + 0x9e3779b97f4a7c15n);
  z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
  z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn);
  return z ^ (z >> 31n);
}

/** Folds strings and integers into one 64-bit key. */
export function randomKey(...parts: (string | bigint | number)[]): bigint {
  let key = 0n;
  for (const part of parts) {
    if (typeof part !== 'string') {
      key = mix(key ^ BigInt.asUintN(64, BigInt(part)));
      continue;
    }
    for (const byte of Buffer.from(part, 'utf8')) key = mix(key ^ BigInt(byte));
    key = mix(key ^ BigInt(part.length));
  }
  return key;
}

/** One draw, uniform in [0, 1) with 53 bits. */
export function uniformAt(key: bigint, counter: number): number {
  return Number(mix(key + BigInt(counter) * 0x9e3779b97f4a7c15n) >> 11n) / 2 ** 53;
}

/** A fast stream from a key: `length` float32 values, uniform in [-bound, bound). xoshiro128** (Blackman & Vigna 2018). */
export function uniformArray(key: bigint, length: number, bound: number): Float32Array {
  const seed = [mix(key), mix(key + 1n)];
  let a = Number(seed[0]! & 0xffffffffn) | 0;
  let b = Number(seed[0]! >> 32n) | 0;
  let c = Number(seed[1]! & 0xffffffffn) | 0;
  let d = Number(seed[1]! >> 32n) | 1;
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    const scrambled = Math.imul(rotate(Math.imul(b, 5), 7), 9) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotate(d, 11);
    values[i] = ((scrambled >>> 8) / 2 ** 24) * 2 * bound - bound;
  }
  return values;
}

function rotate(x: number, k: number): number {
  return (x << k) | (x >>> (32 - k));
}
