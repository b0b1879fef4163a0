"""Config -> built objects. The only folder that reads the keys and builds their objects.

lists.py      from the lists of PySlowFast's MVIT keys to the records of blocks
model.py      the model, and from a checkpoint a model ready to predict
named.py      a published model by name, with its weights
hub.py        models of the hub: from_pretrained, save_pretrained, push_to_hub
accelerate.py our blocks inside torchvision's models
data.py       lists, loaders, view plans, normalisation
training.py   objective, optimizer, schedule, initial weights and frozen parameters

Every function reads the keys it needs and calls one constructor with plain arguments; no object
made here keeps the config.
"""

from slowfast_mvit.builders.data import build_test_loader as build_test_loader
from slowfast_mvit.builders.data import build_train_loader as build_train_loader
from slowfast_mvit.builders.data import build_val_loader as build_val_loader
from slowfast_mvit.builders.data import build_videos as build_videos
from slowfast_mvit.builders.data import clip_spec as clip_spec
from slowfast_mvit.builders.data import config_of_plan as config_of_plan
from slowfast_mvit.builders.data import frames_seen as frames_seen
from slowfast_mvit.builders.data import hang_limit_s as hang_limit_s
from slowfast_mvit.builders.data import prepare_views as prepare_views
from slowfast_mvit.builders.data import test_forward_batch as test_forward_batch
from slowfast_mvit.builders.data import test_plans as test_plans
from slowfast_mvit.builders.data import val_forward_batch as val_forward_batch
from slowfast_mvit.builders.data import videos_per_process as videos_per_process
from slowfast_mvit.builders.data import view_plan as view_plan
from slowfast_mvit.builders.model import build_model as build_model
from slowfast_mvit.builders.model import input_spec as input_spec
from slowfast_mvit.builders.model import model_arguments as model_arguments
from slowfast_mvit.builders.model import model_of_checkpoint as model_of_checkpoint
from slowfast_mvit.builders.named import create_model as create_model
from slowfast_mvit.builders.named import list_models as list_models
from slowfast_mvit.builders.training import build_objective as build_objective
from slowfast_mvit.builders.training import build_optimizer as build_optimizer
from slowfast_mvit.builders.training import build_schedule as build_schedule
from slowfast_mvit.builders.training import freeze_parameters as freeze_parameters
from slowfast_mvit.builders.training import load_initial_weights as load_initial_weights
from slowfast_mvit.builders.training import peak_rate as peak_rate
