"""From a list of videos to batches of views: lists, readers, sampling, augmentation, loading.

annotations -> lists -> VideoRecord -> decode + sampling -> Clip -> transforms -> items -> loader
                                                                                  |
                    on the device: transforms.normalise, erasing.random_erase, mixup.mix
"""
