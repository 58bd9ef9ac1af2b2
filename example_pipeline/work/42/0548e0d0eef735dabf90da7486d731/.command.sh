#!/bin/bash -ue
python collect.py records.json --summarise 'analysis/reward_response.py'
