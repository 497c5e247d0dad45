"The teacher's clips are the same in another process"

import hashlib
import subprocess
import sys

from mirkit.pitch.teacher import render_clips, render_noise

ASK = """
import hashlib, torch
from mirkit.pitch.teacher import render_clip, render_noise
torch.set_num_threads(2)
for i in (9, 3, 5):
    c = render_clip(4, i, 1.0)
    print(hashlib.sha256(c.audio.tobytes() + c.f0.tobytes() + c.voiced.tobytes()).hexdigest())
print(hashlib.sha256(render_noise(4, 2, 1.0).tobytes()).hexdigest())
"""


def test_another_process():
    here = {
        i: hashlib.sha256(c.audio.tobytes() + c.f0.tobytes() + c.voiced.tobytes()).hexdigest()
        for i, c in enumerate(render_clips(4, 3, 7, 1.0), 3)
    }
    told = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True).stdout.split()
    assert told == [here[9], here[3], here[5], hashlib.sha256(render_noise(4, 2, 1.0).tobytes()).hexdigest()]
