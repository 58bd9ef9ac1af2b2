#!/bin/bash -ue
python run_analysis.py 'analysis/reward_response.py' jobs
