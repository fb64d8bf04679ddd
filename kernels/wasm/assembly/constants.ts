// Vector constants, in memory: written as constants in a loop they are put together anew, in several instructions, in
// every round of it, while a load from here is one.

const MAGNITUDE_LANES: usize = memory.data<u32>([0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff]);
const SIGN_LANES: usize = memory.data<u32>([0x80000000, 0x80000000, 0x80000000, 0x80000000]);
const NAN_KEY_LANES: usize = memory.data<u32>([0x7fc00000, 0x7fc00000, 0x7fc00000, 0x7fc00000]);
const INTEGER_ONE_LANES: usize = memory.data<u32>([0x00000001, 0x00000001, 0x00000001, 0x00000001]);
const FLOAT_ONE_LANES: usize = memory.data<u32>([0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000]);
const BF16_HALF_LANES: usize = memory.data<u32>([0x00007fff, 0x00007fff, 0x00007fff, 0x00007fff]);
const BF16_EXPONENTS_LANES: usize = memory.data<u32>([0x7f807f80, 0x7f807f80, 0x7f807f80, 0x7f807f80]);
const F32_EXPONENT_LANES: usize = memory.data<u32>([0x7f800000, 0x7f800000, 0x7f800000, 0x7f800000]);
const F16_EXPONENTS_LANES: usize = memory.data<u32>([0x7c007c00, 0x7c007c00, 0x7c007c00, 0x7c007c00]);
const F16_SHIFTED_LANES: usize = memory.data<u32>([0x8fffffff, 0x8fffffff, 0x8fffffff, 0x8fffffff]);
const F16_SCALE_LANES: usize = memory.data<u32>([0x77800000, 0x77800000, 0x77800000, 0x77800000]);
const F16_LIMIT_LANES: usize = memory.data<u32>([0x47800000, 0x47800000, 0x47800000, 0x47800000]);
const PHILOX_0_LANES: usize = memory.data<u32>([0xd2511f53, 0xd2511f53, 0xd2511f53, 0xd2511f53]);
const PHILOX_1_LANES: usize = memory.data<u32>([0xcd9e8d57, 0xcd9e8d57, 0xcd9e8d57, 0xcd9e8d57]);
const BYTE_FLIP_LANES: usize = memory.data<u32>([0x80808080, 0x80808080, 0x80808080, 0x80808080]);
const UPPER_HALF_LANES: usize = memory.data<u32>([0xffff0000, 0xffff0000, 0xffff0000, 0xffff0000]);
const ZERO_LANES: usize = memory.data<u32>([0x00000000, 0x00000000, 0x00000000, 0x00000000]);

/** Everything but the sign: 0x7fffffff in every lane. */
@inline export function magnitude(): v128 {
  return v128.load(MAGNITUDE_LANES);
}
/** The sign: 0x80000000 in every lane. */
@inline export function sign(): v128 {
  return v128.load(SIGN_LANES);
}
/** The quiet NaN: 0x7fc00000 in every lane. */
@inline export function nanKey(): v128 {
  return v128.load(NAN_KEY_LANES);
}
/** 1: 0x00000001 in every lane. */
@inline export function integerOne(): v128 {
  return v128.load(INTEGER_ONE_LANES);
}
/** 1.0: 0x3f800000 in every lane. */
@inline export function floatOne(): v128 {
  return v128.load(FLOAT_ONE_LANES);
}
/** Half a BF16 unit, less one: 0x00007fff in every lane. */
@inline export function bf16Half(): v128 {
  return v128.load(BF16_HALF_LANES);
}
/** Exponents of BF16, twice: 0x7f807f80 in every lane. */
@inline export function bf16Exponents(): v128 {
  return v128.load(BF16_EXPONENTS_LANES);
}
/** Exponent of float32: 0x7f800000 in every lane. */
@inline export function f32Exponent(): v128 {
  return v128.load(F32_EXPONENT_LANES);
}
/** Exponents of F16, twice: 0x7c007c00 in every lane. */
@inline export function f16Exponents(): v128 {
  return v128.load(F16_EXPONENTS_LANES);
}
/** Sign and upper bits of a shifted F16: 0x8fffffff in every lane. */
@inline export function f16Shifted(): v128 {
  return v128.load(F16_SHIFTED_LANES);
}
/** 2^112: 0x77800000 in every lane. */
@inline export function f16Scale(): v128 {
  return v128.load(F16_SCALE_LANES);
}
/** 65536.0, above every finite F16: 0x47800000 in every lane. */
@inline export function f16Limit(): v128 {
  return v128.load(F16_LIMIT_LANES);
}
/** Multiplier 0: 0xd2511f53 in every lane. */
@inline export function philox0(): v128 {
  return v128.load(PHILOX_0_LANES);
}
/** Multiplier 1: 0xcd9e8d57 in every lane. */
@inline export function philox1(): v128 {
  return v128.load(PHILOX_1_LANES);
}
/** Upper bit of every byte: 0x80808080 in every lane. */
@inline export function byteFlip(): v128 {
  return v128.load(BYTE_FLIP_LANES);
}
/** Upper half of every lane: 0xffff0000. */
@inline export function upperHalves(): v128 {
  return v128.load(UPPER_HALF_LANES);
}
/** 0.0, for loops: as a constant it is made anew before every use. */
@inline export function floatZero(): v128 {
  return v128.load(ZERO_LANES);
}
