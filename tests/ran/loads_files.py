"""Small files in the Barcelona format, made for tests: a day's wave in two-minute steps."""

import math
from datetime import datetime, timedelta

HEADER = "time,down,up,rnti_count,mcs_down,mcs_down_var,mcs_up,mcs_up_var,rb_down,rb_down_var,rb_up,rb_up_var"


def row(at, down, up, mcs="15.0"):
    return f"{at:%Y-%m-%d %H:%M:%S},1e8,1e6,5000,15,80,{mcs},50,{down},1e-8,{up},1e-8"


def write_days(path, days=2, first_day=1, peak=0.4):
    start = datetime(2018, 3, first_day)
    rows = []
    for i in range(days * 720):
        level = 0.5 - 0.45 * math.cos(2 * math.pi * (i % 720) / 720) + 0.05 * ((i * 7919) % 13) / 13
        rows.append(row(start + timedelta(minutes=2 * i), peak * level, peak * level / 4))
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path
