import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { estimateRun, pricesSchema } from "../../../core/cost/estimate.ts";

const prices = pricesSchema.parse(
  JSON.parse(readFileSync(new URL("../../../core/cost/prices.json", import.meta.url), "utf8")),
);

test("a stage costs its workers' billed time, its requests and its transitions", () => {
  // One unit of 15 GB in, 3 GB out on the table's worker: 45 s start + 18e9 / 150e6 = 165 s.
  const { awsSeconds, awsUsd, storageUsdPerMonth } = estimateRun(
    [{ units: 1, bytesRead: 15e9, bytesWritten: 3e9 }],
    prices,
    2,
  );
  assert.equal(awsSeconds, 165);
  const compute = (165 / 3600) * (2 * 0.04048 + 4 * 0.004445);
  const requests = (895 + 1) * 0.4e-6 + (179 + 1) * 5e-6;
  assert.ok(Math.abs(awsUsd - (compute + requests + 15 * 25e-6)) < 1e-12, `${awsUsd}`);
  assert.ok(Math.abs(storageUsdPerMonth - 0.069) < 1e-12);
});

test("units beyond the worker count take further rounds, and small work is billed its minimum", () => {
  const many = estimateRun([{ units: 65, bytesRead: 65 * 150e6, bytesWritten: 0 }], prices, 1);
  assert.equal(many.awsSeconds, 45 + 2);
  const tiny = estimateRun([{ units: 1, bytesRead: 1, bytesWritten: 0 }], prices, 1);
  assert.ok(tiny.awsUsd > (60 / 3600) * (2 * 0.04048));
});

test("stages run one after the other", () => {
  const stage = { units: 1, bytesRead: 150e6, bytesWritten: 0 };
  assert.equal(estimateRun([stage, stage], prices, 1).awsSeconds, 2 * 46);
  assert.deepEqual(estimateRun([], prices, 1).stages, []);
});

test("more threads shorten the local time and leave AWS alone", () => {
  const stage = { units: 4, bytesRead: 4e9, bytesWritten: 1e9 };
  const [one, two] = [estimateRun([stage], prices, 1), estimateRun([stage], prices, 2)];
  assert.equal(two.localSeconds, one.localSeconds / 2);
  assert.equal(two.awsUsd, one.awsUsd);
});
