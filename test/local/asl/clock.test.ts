import assert from "node:assert/strict";
import { test } from "node:test";
import { sleep, systemClock } from "../../../local/asl/clock.ts";

const DAY = 86_400_000;

test("a timer beyond 2^31 ms fires when it is due, not at once", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  let fired = 0;
  systemClock.after(60 * DAY, () => {
    fired += 1;
  });
  for (let day = 1; day < 60; day += 1) {
    t.mock.timers.tick(DAY);
    assert.equal(fired, 0, `fired on day ${day}`);
  }
  t.mock.timers.tick(DAY);
  assert.equal(fired, 1);
});

test("a long timer can be cancelled in its second part", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  let fired = 0;
  const cancel = systemClock.after(60 * DAY, () => {
    fired += 1;
  });
  t.mock.timers.tick(40 * DAY);
  cancel();
  t.mock.timers.tick(40 * DAY);
  assert.equal(fired, 0);
});

test("a sleep ends at once with the reason of its signal", async () => {
  const controller = new AbortController();
  const asleep = sleep(systemClock, DAY, controller.signal);
  controller.abort(new Error("enough"));
  await assert.rejects(asleep, { message: "enough" });
  await assert.rejects(sleep(systemClock, DAY, controller.signal), { message: "enough" });
});
