import { assert, assertEquals } from "@std/assert";
import { TRANSFER_SCHEDULES } from "../../src/decoding.ts";
import { transferSchedule } from "../../src/transfer_schedule.ts";

const quotasOf = (...[name, facts]: Parameters<typeof transferSchedule>) =>
  transferSchedule(name, facts).map((step) => step.quota);

Deno.test("transferSchedule() fills every mask in at most the asked steps, whatever the schedule", () => {
  for (const name of TRANSFER_SCHEDULES) {
    for (let masked = 1; masked <= 40; masked++) {
      for (let steps = 1; steps <= 40; steps++) {
        const facts = { masked, steps, blockLength: masked, epsilon: 0.001 };
        const quotas = quotasOf(name, facts);
        assertEquals(quotas.reduce((a, b) => a + b), masked, `${name} ${masked} ${steps}`);
        assert(quotas.length <= steps && quotas.every((quota) => quota >= 0));
      }
    }
  }
});

Deno.test("even spreads the masks, even_block the block's length, larger numbers first", () => {
  const facts = { masked: 3, steps: 3, blockLength: 8, epsilon: 0 };
  assertEquals(quotasOf("even", facts), [1, 1, 1]);
  assertEquals(quotasOf("even_block", facts), [3, 3, 2]);
  assertEquals(quotasOf("even", { ...facts, masked: 10, steps: 4 }), [3, 3, 2, 2]);
});

Deno.test("timestep's shares say how much of what is masked goes in each step", () => {
  const steps = transferSchedule("timestep", { masked: 10, steps: 4, blockLength: 10, epsilon: 0 });
  assertEquals(steps.at(-1)!.share, 1);
  assert(steps.every(({ share }, i) => i === 0 || share > steps[i - 1].share));
});
