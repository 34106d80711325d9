"""A training script of some 20 ms for tests of the runner: writes rows as the real one, measures
nothing. SLOW=seconds makes a run and its step longer, LINGER=seconds its end after the rows,
STATUS what it ends with."""

import json
import os
import sys
import time
from pathlib import Path

if "--describe" in sys.argv:
    print(json.dumps({"devices_granted": 2, "cores_granted": 2, "dataset": "none"}))
    sys.exit()
slow = float(os.environ.get("SLOW", 0))
time.sleep(slow)
output = Path(sys.argv[sys.argv.index("--output") + 1])
run_id = output.stem.removeprefix("times_run")
part = output.with_name(output.name + ".tmp")
part.write_text(
    "run_id,num_devices,batch_size,loading_time,compute_time,rank,step,warmup,images,step_time\n"
    f"{run_id},1,4,0.1,0.9,0,0,0,4,{1 + slow}\n"
)
part.replace(output)
time.sleep(float(os.environ.get("LINGER", 0)))
sys.exit(int(os.environ.get("STATUS", 0)))
