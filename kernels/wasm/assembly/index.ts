// WebAssembly SIMD kernels. What each must compute is defined in core/ops; this is only how. Rebuild: npm run kernels.
// Addresses are bytes in the imported memory; counts are elements. No relaxed SIMD, no fused multiply-add.
export * from "./cast";
export * from "./arithmetic";
export * from "./reduce";
export * from "./combine";
export * from "./select";
export * from "./masked";
export * from "./mask";
export * from "./ranked-mask";
export * from "./signs";
export * from "./low-rank";
export * from "./nearness";
export * from "./overlap";
export * from "./consensus";
export * from "./scores";
export { quantizeQ4_0, quantizeQ4_1, quantizeQ5_0, quantizeQ5_1, quantizeQ8_0 } from "./quant-simple";
export { weightedQ4_0, weightedQ4_1, weightedQ5_0, weightedQ5_1 } from "./quant-weighted";
export { quantizeQ2_K, quantizeQ4_K, quantizeQ5_K } from "./quant-k-affine";
export { quantizeQ3_K, quantizeQ6_K } from "./quant-k-signed";
export { quantizeMXFP4, quantizeNVFP4 } from "./quant-fp4";
export { quantizeQ1_0, quantizeTQ1_0, quantizeTQ2_0 } from "./quant-few";
export { quantizeIQ4_NL, quantizeIQ4_XS } from "./quant-iq4";
export * from "./dequant";
export * from "./limits";
export * from "./loss";
export * from "./votes";
export * from "./competition";
export {
  beginPartsLoss,
  decodeE4M3,
  dequantizeIntegers,
  encodeE4M3,
  largestMagnitude,
  quantizeIntegers4,
  quantizeIntegers8,
  scaleOfLargest,
} from "./quant-parts";
