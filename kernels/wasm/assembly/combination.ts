// How sources are combined: the host sets it with their table, and combine.ts and masked.ts read it where they begin.
//
// Address of the base, or 0 (u32); number of sources (u32); divisor and multiplier of the sum (f32). Under election the
// divisor says whether the sum is divided by the weights that were added: unless it is 0.
const COMBINATION: usize = memory.data(16);

export function combination(): usize {
  return COMBINATION;
}

@inline export function baseAddress(): usize {
  return <usize>load<u32>(COMBINATION);
}

@inline export function sourceCount(): usize {
  return <usize>load<u32>(COMBINATION, 4);
}

@inline export function divisor(): f32 {
  return load<f32>(COMBINATION, 8);
}

@inline export function multiplier(): f32 {
  return load<f32>(COMBINATION, 12);
}
