// WebAssembly SIMD kernels. What each must compute is defined in core/ops; this is only how. Rebuild: npm run kernels.
// Addresses are bytes in the imported memory; counts are elements. No relaxed SIMD, no fused multiply-add.
export * from "./cast";
export * from "./arithmetic";
export * from "./reduce";
export * from "./combine";
export * from "./select";
export * from "./masked";
export * from "./mask";
export * from "./rank";
export * from "./signs";
export * from "./low-rank";
export * from "./nearness";
export * from "./overlap";
export * from "./consensus";
export * from "./scores";
